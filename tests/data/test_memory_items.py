"""Items of a program become the objects that readers give, or are refused by number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from swamp_dist.data.memory_items import item_objects, item_rows
from swamp_dist.errors import UserError
from swamp_dist.records import InputSpec

SETS = InputSpec((3,), kind="set")


def test_sets_of_arrays_of_tensors_and_of_one_array() -> None:
    arrays = [np.ones((2, 3), np.float16), np.zeros((1, 3))]
    for items in (arrays, [torch.from_numpy(each) for each in arrays]):
        found = item_objects("r", SETS, items)
        assert [each.shape for each in found] == [(2, 3), (1, 3)]
        assert all(each.dtype == np.float32 for each in found)
    same = item_objects("r", SETS, np.ones((4, 2, 3)))
    assert same.shape == (4,)
    assert same[3].shape == (2, 3)


@pytest.mark.parametrize(
    ("items", "said"),
    [(["a", "b"], r"field 'r' holds sets of vectors: expected a list of arrays \(elements, 3\), found texts"),
     ([np.ones((2, 3)), np.ones((2, 4))], r"item 1: .*found \(2, 4\)"),
     ([np.ones((0, 3))], r"item 0: .*at least one element in each, found \(0, 3\)"),
     (np.ones((5, 3)), r"item 0: .*found \(3,\)")],
)  # fmt: skip
def test_what_is_no_set_is_refused(items: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        item_objects("r", SETS, items)


def test_texts_and_images_stay_what_they_are() -> None:
    assert item_objects("t", InputSpec((), kind="text"), ["a", "b"]).tolist() == ["a", "b"]
    with pytest.raises(UserError, match="field 't' holds texts: expected a list of texts"):
        item_objects("t", InputSpec((), kind="text"), [b"a"])


def test_rows_of_arrays_keep_their_type_and_frames_have_to_be_bytes() -> None:
    clips = InputSpec((2, 3, 4, 4), kind="frames")
    frames = np.zeros((5, 2, 3, 4, 4), dtype=np.uint8)
    assert item_rows("f", clips, frames).dtype == torch.uint8
    assert item_rows("v", InputSpec((3,)), [[1, 2, 3]]).shape == (1, 3)
    with pytest.raises(
        UserError, match="field 'f' holds frames: expected pixels as uint8, found torch.float64"
    ):
        item_rows("f", clips, frames.astype(np.float64))
    with pytest.raises(UserError, match=r"expected shape \(n, 2, 3, 4, 4\), found \(5, 1, 3, 4, 4\)"):
        item_rows("f", clips, frames[:, :1])
    with pytest.raises(UserError, match="expected an array, found texts or files"):
        item_rows("v", InputSpec((3,)), ["a"])
