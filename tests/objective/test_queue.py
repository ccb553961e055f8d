import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swamp_dist.distributed import alone
from swamp_dist.objective.memory import queue_bytes
from swamp_dist.objective.queue import Queue, QueueShard, queue_capacity


def _queue(capacity: int, dim: int = 2) -> Queue:
    return Queue(capacity, dim, torch.device("cpu"), torch.float64)


def _push(queue: Queue, first_id: int, count: int, step: int) -> None:
    ids = torch.arange(first_id, first_id + count)
    rows = torch.stack((ids, -ids), dim=1).double()
    queue.push(rows, 10 * rows, ids, step)


def _content(queue: Queue) -> dict[int, tuple[list[float], list[float], int]]:
    rows = zip(queue.ids.tolist(), queue.a.tolist(), queue.b.tolist(), queue.steps.tolist(), strict=True)
    return {i: (a, b, step) for i, a, b, step in rows}


@pytest.mark.parametrize(
    ("size", "batch", "counts_batch", "expected"),
    [(2048, 256, True, 2048), (100, 256, True, 256), (1280, 128, False, 1408), (0, 128, False, 128)],
)
def test_capacity_holds_the_batch_exactly_once(
    size: int, batch: int, counts_batch: bool, expected: int
) -> None:
    assert queue_capacity(size, batch, counts_batch) == expected


@given(capacity=st.integers(1, 23), batches=st.lists(st.integers(0, 23), max_size=12))
@settings(max_examples=80, deadline=None)
def test_it_holds_the_newest_rows_once_each_with_their_partners(capacity: int, batches: list[int]) -> None:
    queue, pushed = _queue(capacity), 0
    stamp: list[int] = []
    for step, count in enumerate(min(count, capacity) for count in batches):
        _push(queue, pushed, count, step)
        stamp += [step] * count
        pushed += count
    newest = range(max(0, pushed - capacity), pushed)
    expected = {i: ([float(i), -float(i)], [10.0 * i, -10.0 * i], stamp[i]) for i in newest}
    assert len(queue) == len(expected)
    assert _content(queue) == expected


@given(capacity=st.integers(1, 12), other=st.integers(1, 12), counts=st.lists(st.integers(1, 12), max_size=6))
@settings(max_examples=80, deadline=None)
def test_state_is_in_insertion_order_and_loads_into_any_capacity(
    capacity: int, other: int, counts: list[int]
) -> None:
    queue, pushed = _queue(capacity), 0
    for step, count in enumerate(min(count, capacity) for count in counts):
        _push(queue, pushed, count, step)
        pushed += count
    state = queue.state(alone())
    assert state["ids"].tolist() == list(range(max(0, pushed - capacity), pushed))
    loaded = _queue(other)
    _push(loaded, 1000, 1, 0)  # what was there before does not survive
    loaded.load(state)
    kept = state["ids"].tolist()[-other:]
    assert _content(loaded) == {i: row for i, row in _content(queue).items() if i in kept}
    # The next push drops the oldest row, in whatever slot it came to lie.
    _push(loaded, 2000, 1, 9)
    assert sorted(loaded.ids.tolist()) == [*kept, 2000][-other:]


def test_loading_the_same_capacity_restores_the_very_slots() -> None:
    queue, loaded = _queue(5), _queue(5)
    for step in range(4):
        _push(queue, 3 * step, 3, step)
    loaded.load(queue.state(alone()))
    assert loaded.pushed == 12
    assert torch.equal(loaded.ids, queue.ids)
    assert torch.equal(loaded.a, queue.a)


def test_a_queue_of_batch_size_is_the_batch() -> None:
    queue = _queue(queue_capacity(0, 4, counts_batch=False))
    for step in range(3):
        _push(queue, 4 * step, 4, step)
        assert queue.ids.tolist() == list(range(4 * step, 4 * step + 4))
        assert queue.ages(step).tolist() == [0] * 4


def test_ages_count_steps_and_not_pushes() -> None:
    queue = _queue(6)
    _push(queue, 0, 3, step=2)
    _push(queue, 3, 3, step=7)
    assert queue.ages(9).tolist() == [7, 7, 7, 2, 2, 2]


def test_saved_rows_are_copies() -> None:
    queue = _queue(2)
    _push(queue, 1, 2, 0)
    state: dict[str, Tensor] = queue.state(alone())
    _push(queue, 5, 2, 1)
    assert state["ids"].tolist() == [1, 2]


def test_wrong_sizes_are_refused() -> None:
    queue = _queue(2)
    with pytest.raises(ValueError, match="3 pairs does not fit a queue of 2"):
        _push(queue, 0, 3, 0)
    with pytest.raises(ValueError, match=r"shape \(0, 7\), expected \(n, 2\)"):
        queue.load(_queue(2, dim=7).state(alone()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"b": torch.zeros(1, 2)}, r"of 3 rows has b of shape \(1, 2\), not \(3, 2\)"),
        ({"ids": torch.zeros(3, 1)}, "has ids of shape"),
        ({"a": torch.zeros(3)}, "holds embeddings of shape"),
        ({"steps": torch.zeros(3)}, "counts in fractions"),
        ({"pushed": torch.tensor(2)}, "holds 3 rows of 2 that were pushed"),
        ({"pushed": None}, "lacks pushed"),
    ],
)
def test_what_no_queue_has_saved_is_refused(changes: dict[str, torch.Tensor | None], said: str) -> None:
    saved = _queue(4)
    _push(saved, 0, 3, 0)
    state = {k: v for k, v in (saved.state(alone()) | changes).items() if v is not None}
    with pytest.raises(ValueError, match=said):
        _queue(4).load(state)


# -- the rounded copy ------------------------------------------------------------------------------


def _rounding(capacity: int, shard: QueueShard | None = None) -> Queue:
    return Queue(capacity, 3, torch.device("cpu"), torch.float32, shard, "bfloat16")


def _push_random(queue: Queue, count: int, step: int) -> None:
    a, b = torch.randn(2, count, 3, generator=torch.Generator().manual_seed(step))
    queue.push(a, b, torch.arange(count), step)


@pytest.mark.parametrize("shard", [None, QueueShard(6, 1, 2)])
def test_rows_are_rounded_as_they_come_and_stay_whole_in_the_state(shard: QueueShard | None) -> None:
    queue, count = _rounding(7, shard), 6 if shard is None else 3
    exact = Queue(7, 3, torch.device("cpu"), torch.float32, shard)
    for step in range(4):  # wraps
        for each in (queue, exact):
            _push_random(each, count, step)
        assert torch.equal(queue.a, exact.a)
        for rows, rounded in zip((queue.a, queue.b), queue.operands, strict=True):
            assert rounded.dtype == torch.bfloat16
            assert torch.equal(rounded, rows.bfloat16())
    assert all(x is y or torch.equal(x, y) for x, y in zip(exact.operands, (exact.a, exact.b), strict=True))
    if shard is None:
        state, expected = queue.state(alone()), exact.state(alone())
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize("shard", [None, QueueShard(6, 1, 2)])
def test_loaded_rows_are_rounded_too(shard: QueueShard | None) -> None:
    saved, loaded = _rounding(7), _rounding(7, shard)
    for step in range(3):
        _push_random(saved, 6, step)
    loaded.load(saved.state(alone()))
    assert loaded.held == (7 if shard is None else shard.share(7))
    assert torch.equal(loaded.operands[1], loaded.b.bfloat16())
    assert not torch.equal(loaded.operands[1].float(), loaded.b)


@pytest.mark.parametrize("is_rounded", [True, False])
def test_the_formula_counts_the_copy(is_rounded: bool) -> None:
    queue = Queue(7, 3, torch.device("cpu"), precision="bfloat16" if is_rounded else "float32")
    held = [queue._a, queue._b, queue._ids, *(queue._rounded or ())]
    assert sum(x.nbytes for x in held) == queue_bytes(7, 3, is_rounded)
