"""Which rows of a queue count: against a loop over all rows, in every layout and after a resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swamp_dist.distributed import alone
from swamp_dist.objective.memory import items_bytes
from swamp_dist.objective.queue import Queue, QueueShard
from swamp_dist.objective.queue_items import QueueItems, rows_that_count

BATCH = 12
SIZES = (1, 2, 3, 4)
batches_of_ids = st.lists(
    st.lists(st.integers(0, 40), min_size=BATCH, max_size=BATCH), min_size=1, max_size=6
)


def _counting(ids: list[int], batch: int) -> list[bool]:
    """The definition, row by row, oldest first."""
    first_of_batch = len(ids) - batch
    return [i >= first_of_batch or item not in ids[i + 1 :] for i, item in enumerate(ids)]


@given(ids=st.lists(st.integers(-3, 5) | st.integers(0, 2**62), min_size=1, max_size=40), data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_row_counts_unless_a_newer_one_has_its_item(ids: list[int], data: Any) -> None:
    batch = data.draw(st.integers(1, len(ids)))
    assert rows_that_count(torch.tensor(ids), batch).tolist() == _counting(ids, batch)


def _queue(capacity: int, rank: int, size: int) -> Queue:
    shard = None if size == 1 else QueueShard(BATCH, rank, size)
    return Queue(capacity, 1, torch.device("cpu"), torch.float64, shard, unique_items=True)


def _push(queue: Queue, ids: list[int], step: int) -> None:
    """The row with insertion index g is (g,)."""
    every = torch.arange(step * BATCH, (step + 1) * BATCH).double()[:, None]
    size, rank = (1, 0) if queue.shard is None else (queue.shard.world_size, queue.shard.rank)
    mine = every[rank * BATCH // size : (rank + 1) * BATCH // size]
    queue.push(mine, mine, torch.tensor(ids), step)


def _found(queue: Queue) -> dict[int, bool]:
    """Whether the rows that are here count, by insertion index."""
    counting = queue.of_mine(queue.counting(BATCH))
    return {int(g): bool(counts) for g, counts in zip(queue.a[:, 0], counting, strict=True)}


@given(capacity=st.integers(BATCH, 50), batches=batches_of_ids)
@settings(max_examples=40, deadline=None)
def test_every_layout_counts_the_same_rows_before_and_after_a_resume(
    capacity: int, batches: list[list[int]]
) -> None:
    """Repeats inside a batch and across batches, rings that wrap, any capacity."""
    whole = _queue(capacity, 0, 1)
    for step, ids in enumerate(batches):
        _push(whole, ids, step)
    items, pushed = sum(batches, []), len(batches) * BATCH
    valid = min(capacity, pushed)
    expected = dict(zip(range(pushed - valid, pushed), _counting(items[-valid:], BATCH), strict=True))
    state = whole.state(alone())
    for size in SIZES:
        pushed_on, loaded_on = {}, {}
        for rank in range(size):
            queue, loaded = _queue(capacity, rank, size), _queue(capacity, rank, size)
            for step, ids in enumerate(batches):
                _push(queue, ids, step)
            loaded.load(state)
            assert torch.equal(queue.counting(BATCH), whole.counting(BATCH))
            assert torch.equal(loaded.counting(BATCH), whole.counting(BATCH))
            pushed_on |= _found(queue)
            loaded_on |= _found(loaded)
        assert pushed_on == expected
        assert loaded_on == expected


def test_a_queue_goes_on_from_another_capacity() -> None:
    saved = _queue(30, 0, 1)
    for step in range(4):
        _push(saved, [(5 * step + i) % 23 for i in range(BATCH)], step)
    state = saved.state(alone())
    for capacity in (13, 30, 60):
        loaded = _queue(capacity, 0, 1)
        loaded.load(state)
        _push(loaded, list(range(BATCH)), 4)
        items = [*state["ids"].tolist()[-capacity:], *range(BATCH)][-capacity:]
        expected = torch.tensor(_counting(items, BATCH))
        ordered = loaded.ids[torch.argsort(loaded.a[:, 0])]
        assert ordered.tolist() == items
        assert torch.equal(loaded.counting(BATCH)[torch.argsort(loaded.a[:, 0])], expected)


def test_only_a_queue_that_was_asked_to_tells_items_apart() -> None:
    queue = Queue(5, 1, torch.device("cpu"))
    queue.push(*(torch.zeros(2, 1),) * 2, torch.zeros(2, dtype=torch.int64), 0)
    with pytest.raises(ValueError, match="does not tell items apart"):
        queue.counting(2)
    assert queue.takes_all_ids
    assert not Queue(12, 1, torch.device("cpu"), shard=QueueShard(12, 0, 2)).takes_all_ids


def test_the_formula_counts_what_is_held() -> None:
    items = QueueItems(31, 11, torch.device("cpu"))
    held = [x for x in vars(items).values() if isinstance(x, Tensor)]
    assert sum(x.nbytes for x in held) == items_bytes(31, 11)
