"""Inputs of items that lie encoded in an entry."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from swamp_dist.config import ImageSettings
from swamp_dist.data.field_inputs import FieldInputs
from swamp_dist.data.raw_fields import objects
from swamp_dist.errors import UserError
from tests.data.image_sets import encode, smooth


def blame(row: int, finding: str, is_damaged: bool) -> UserError:
    return UserError(f"row {row}, {'damaged' if is_damaged else 'refused'}: {finding}")


def pictures(count: int) -> list[bytes]:
    kinds = ("PNG", "JPEG")
    return [encode(smooth(i, 40 + i, 90 - i), kinds[i % 2]) for i in range(count)]


def test_threads_make_the_same_pixels_in_the_same_places() -> None:
    rows = objects(tuple(pictures(40)))
    alone = FieldInputs("image", "image", images=ImageSettings(size=32))
    several = FieldInputs("image", "image", images=ImageSettings(size=32), threads=5)
    before = list(warnings.filters)
    for draws in (None, [("key", i) for i in range(40)]):
        first, second = alone.make(rows, blame, draws), several.make(rows, blame, draws)
        assert isinstance(first, torch.Tensor)
        assert isinstance(second, torch.Tensor)
        assert torch.equal(first, second)
    assert list(warnings.filters) == before


@pytest.mark.parametrize("threads", [1, 4])
def test_the_first_row_that_does_not_decode_is_named(threads: int) -> None:
    files = pictures(24)
    files[7], files[20] = files[7][:-30], b"\x89PNG\r\n\x1a\n" + bytes(40)
    inputs = FieldInputs("image", "image", images=ImageSettings(size=32), threads=threads)
    with pytest.raises(UserError, match="row 7, damaged: field 'image': .*truncated"):
        inputs.make(objects(tuple(files)), blame)
    rows = np.delete(objects(tuple(files)), [7, 20])
    small = FieldInputs("image", "image", images=ImageSettings(size=32, max_pixels=3000), threads=threads)
    with pytest.raises(UserError, match=r"row 0, refused: .*3600 pixels.*at most 3000"):
        small.make(rows, blame)
