"""What an evaluation compares: rows of unit length for cosines, rows as they are for distances."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from swamp_dist.config import EvaluateSettings, ModelSettings
from swamp_dist.evaluate.scored import encoders_for
from swamp_dist.records import Inputs


def triple(inputs: Inputs) -> Tensor:
    assert isinstance(inputs, Tensor)
    return 3 * inputs


@pytest.mark.parametrize(
    ("length", "distance", "unit"),
    [("free", "cosine", True), ("free", "euclidean", False), ("unit", "cosine", False)],
)
def test_rows_of_free_length_are_brought_to_length_1_for_cosines_alone(
    length: str, distance: str, unit: bool
) -> None:
    model = ModelSettings.model_validate({"length": length})
    evaluation = EvaluateSettings.model_validate({"split": "test", "distance": distance})
    rows = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    for encode in encoders_for((triple, triple), model, evaluation):
        expected = torch.tensor([[0.6, 0.8], [0.0, 1.0]]) if unit else 3 * rows
        torch.testing.assert_close(encode(rows), expected)
