from __future__ import annotations

import torch

from swamp_dist.records import Words, take_rows


def test_rows_of_an_array_and_of_words() -> None:
    array = torch.arange(12).reshape(4, 3)
    assert torch.equal(take_rows(array, slice(1, 3)), array[1:3])
    words = Words(torch.tensor([[1, 0], [2, 1], [0, 0]]), torch.randn(3, 5))
    taken = take_rows(words, slice(1, None))
    assert isinstance(taken, Words)
    assert taken.ids.tolist() == [[2, 1], [0, 0]]
    assert taken.vectors is words.vectors
