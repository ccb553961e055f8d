"""Weights tell what no shape of a tensor shows of their sets; another reading is refused with the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from swamp_dist.config import ModelSettings
from swamp_dist.errors import UserError
from swamp_dist.train.set_marks import check_set_marks, set_marks
from tests.train.set_batches import settings


def _weights(folder: Path, model: ModelSettings | None) -> Path:
    path = folder / "weights.safetensors"
    save_file({"x": torch.zeros(1)}, path, {} if model is None else set_marks(model))
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"temperature": 0.1}, "model.sets.temperature = 0.1, trained with 0.5(.|\n)*Fix: model.sets.temp"),
     ({"compare": "cosine"}, 'model.sets.compare = "cosine", trained with "dot"')],
)  # fmt: skip
def test_another_attention_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = _weights(tmp_path, settings())
    check_set_marks(path, "weights", settings())
    with pytest.raises(UserError, match=rf"weights = .*weights.safetensors are of another model: {said}"):
        check_set_marks(path, "weights", settings(**changes))


def test_another_use_of_words_is_refused_and_weights_that_do_not_say_pass(tmp_path: Path) -> None:
    gru = {"kind": "gru", "output": "last"}
    last, mean = (ModelSettings.model_validate({"b": gru | more}) for more in ({}, {"output": "mean"}))
    path = _weights(tmp_path, last)
    with pytest.raises(UserError, match='model.b.output = "mean", trained with "last"'):
        check_set_marks(path, "weights", mean)
    check_set_marks(_weights(tmp_path, None), "weights", mean)
    assert set_marks(ModelSettings()) == {}
