"""The compiled choice of the largest word is that of torch, and is taken where it pays."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from swamp_dist.encoders.networks import words
from swamp_dist.encoders.networks.words import largest_rows
from swamp_dist.encoders.networks.words_numba import largest_places

VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, float("inf"), float("-inf"), float("nan")])


def _by_torch(rows: Tensor, ids: Tensor) -> Tensor:
    starts = torch.arange(0, ids.numel(), ids.shape[1])
    return torch.embedding_bag(rows, ids.flatten(), starts, False, 2)[3]


@given(st.data(), st.integers(1, 7), st.integers(1, 40), st.integers(1, 5), st.integers(1, 6))
def test_the_places_are_those_of_torch(
    data: st.DataObject, num_rows: int, width: int, captions: int, places: int
) -> None:
    """With values that are equal, zeros of both signs, infinities and nan."""
    values = data.draw(st.lists(VALUES, min_size=num_rows * width, max_size=num_rows * width))
    rows = torch.tensor(values).view(num_rows, width)
    numbers = st.lists(st.integers(0, num_rows - 1), min_size=captions * places, max_size=captions * places)
    ids = torch.tensor(data.draw(numbers)).view(captions, places)
    assert torch.equal(largest_places(rows, ids), _by_torch(rows, ids))


def test_many_words_give_the_values_and_the_gradient_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 515, generator=draw).relu().requires_grad_()
    ids = torch.randint(0, 500, (900, 20), generator=draw)
    assert ids.numel() * rows.shape[1] >= words.WORTH
    asked: list[Any] = []
    upstream = torch.randn(900, 515, generator=draw)
    monkeypatch.setattr(torch, "embedding_bag", lambda *given: asked.append(given))
    ours = largest_rows(rows, ids)
    gradient = torch.autograd.grad(ours, rows, upstream)[0]
    monkeypatch.undo()
    monkeypatch.setattr(words, "WORTH", 2**62)
    theirs = largest_rows(rows, ids)
    assert not asked
    assert torch.equal(ours, theirs)
    assert torch.equal(gradient, torch.autograd.grad(theirs, rows, upstream)[0])


@pytest.mark.parametrize("number", [-1, 4])
def test_a_row_that_is_not_there_is_refused_before_it_is_read(number: int) -> None:
    with pytest.raises(IndexError, match=f"{min(number, 0)} to {max(number, 0)} of 4"):
        largest_places(torch.zeros(4, 3), torch.tensor([[0, number]]))


def test_no_caption_has_no_places() -> None:
    assert largest_places(torch.zeros(4, 3), torch.zeros(0, 20, dtype=torch.int64)).shape == (0, 3)


@pytest.mark.usefixtures("without_numba")
def test_without_numba_torch_is_asked_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(words, "WORTH", 0)
    asked: list[Any] = []
    bag = torch.embedding_bag
    monkeypatch.setattr(torch, "embedding_bag", lambda *given: [asked.append(1), bag(*given)][1])
    rows, ids = torch.randn(6, 4), torch.randint(0, 6, (3, 5))
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert torch.equal(largest_rows(rows, ids), rows[ids].max(dim=1).values)
    assert len(asked) == 2
    assert caplog.text.count("found by torch") == 1
