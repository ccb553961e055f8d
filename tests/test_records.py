from __future__ import annotations

import torch

from swamp_dist.records import Sets, Words, map_tensors, take_rows


def test_rows_of_an_array_and_of_words() -> None:
    array = torch.arange(12).reshape(4, 3)
    assert torch.equal(take_rows(array, slice(1, 3)), array[1:3])
    words = Words(torch.tensor([[1, 0], [2, 1], [0, 0]]), torch.randn(3, 5))
    taken = take_rows(words, slice(1, None))
    assert isinstance(taken, Words)
    assert taken.ids.tolist() == [[2, 1], [0, 0]]
    assert taken.vectors is words.vectors


def test_rows_and_tensors_of_sets() -> None:
    sets = Sets(torch.arange(12.0).reshape(2, 3, 2), torch.tensor([[True, True, True], [True, False, False]]))
    taken = take_rows(sets, torch.tensor([1, 1, 0]))
    assert isinstance(taken, Sets)
    assert torch.equal(taken.values, sets.values[[1, 1, 0]])
    assert taken.mask.tolist() == [[True, False, False], [True, False, False], [True, True, True]]
    moved = map_tensors(sets, lambda x: x.double() if x.is_floating_point() else ~x)
    assert isinstance(moved, Sets)
    assert moved.values.dtype == torch.float64
    assert torch.equal(moved.mask, ~sets.mask)
