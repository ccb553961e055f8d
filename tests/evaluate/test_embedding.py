"""Every item once, in manifest order, with the same number of calls on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from swamp_dist.data.entry import Entry
from swamp_dist.distributed import World, alone, sum_over_ranks
from swamp_dist.evaluate.embedding import Embedded, embed_split
from tests.ranks import run_on_ranks


@dataclass(frozen=True)
class FakeReader:
    """Entries made on the fly; every item is a vector that names its entry and its place there."""

    items: tuple[int, ...]
    """Items of each entry; 0 means a field without the leading axis."""
    seen: list[int]

    def read(self, indices: Sequence[int]) -> list[Entry]:
        self.seen.extend(indices)
        return [self._entry(i) for i in indices]

    def _entry(self, i: int) -> Entry:
        rows = np.array([[i, j, 1.0] for j in range(max(1, self.items[i]))], dtype=np.float32)
        array = rows if self.items[i] else rows[0]
        return Entry(i, f"e{i}", i % 3, {"x": array}, {})


def embed_all(world: World, items: tuple[int, ...], chunk: int) -> tuple[Embedded, list[int], list[int]]:
    """The embedding, the rows of every call, and the entries this rank read."""
    calls: list[int] = []

    def embed(inputs: Tensor) -> Tensor:
        calls.append(len(inputs))
        assert not torch.is_grad_enabled()
        sum_over_ranks(torch.ones(1), world)  # ZeRO-3 gathers parameters in every call: must be equally many
        return inputs * 2

    reader = FakeReader(items, [])
    return embed_split(embed, reader, "x", len(items), items[0] > 0, chunk, world), calls, reader.seen


def expected_rows(items: tuple[int, ...]) -> list[list[float]]:
    return [[2.0 * i, 2.0 * j, 2.0] for i, n in enumerate(items) for j in range(max(1, n))]


@pytest.mark.parametrize("num_entries", [1, 2, 7, 8, 9, 37])
@pytest.mark.parametrize("several", [False, True])
def test_every_item_comes_once_and_in_order(num_entries: int, several: bool) -> None:
    items = tuple((i * 5) % 4 + 1 if several else 0 for i in range(num_entries))
    found, calls, seen = embed_all(alone(), items, 4)
    assert found.rows.tolist() == expected_rows(items)
    assert found.entry.tolist() == [i for i, n in enumerate(items) for _ in range(max(1, n))]
    assert found.label.tolist() == [i % 3 for i in found.entry.tolist()]
    assert set(calls) == {4}  # the encoder always sees the full chunk
    assert seen == list(range(num_entries))


CASES = [(tuple([0] * n), chunk) for n in (1, 3, 8, 37) for chunk in (1, 4, 64)]
CASES += [((3, 1, 9, 1, 1, 2, 1, 30, 1, 1, 1), 2), ((1, 5), 4), ((7,), 3)]


def _values(embedded: Embedded) -> list[list[float]]:
    """Plain values: tensors would need this process alive until the test has read them."""
    return [embedded.rows.tolist(), embedded.entry.tolist(), embedded.label.tolist()]


def _embed_cases(world: World) -> list[tuple[list[list[float]], list[int], list[int]]]:
    found = [embed_all(world, *case) for case in CASES]
    return [(_values(embedded), calls, seen) for embedded, calls, seen in found]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_result_is_the_same_on_every_rank_of_every_world(size: int) -> None:
    by_rank = run_on_ranks(_embed_cases, size)
    for (items, chunk), *found in zip(CASES, *by_rank, strict=True):
        alone_found, _, _ = embed_all(alone(), items, chunk)
        for embedded, calls, _ in found:
            assert embedded == _values(alone_found)
            assert calls == found[0][1]
        read = sorted(i for _, _, seen in found for i in seen)
        fillers = len(read) - len(items)
        assert sorted([*range(len(items)), *[0] * fillers]) == read
        assert fillers < size
