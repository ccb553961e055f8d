"""Every layout and solve gives the same targets on any number of ranks, and the same state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist import distributed
from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World, alone
from swamp_dist.objective.objective import Objective, build_objective
from swamp_dist.objective.queue import Queue, QueueShard
from swamp_dist.objective.terms import swamp as swamp_module
from swamp_dist.records import BatchPlan, PairEmbeddings, SoftTargets
from tests.ranks import run_on_ranks

BATCH, DIM, PROTOTYPES, STEPS = 12, 6, 7, 3
CPU = torch.device("cpu")
QUEUES: dict[str, dict[str, Any]] = {
    "no multiple of B": {"size": 31},
    "smaller than B": {"size": 5},
    "Q = 0": {"size": 0, "counts_batch": False},
    "not the batch": {"size": 19, "counts_batch": False},
    "partly filled": {"size": 1000},
}
MODES: dict[str, dict[str, Any]] = {
    "whole": {"layout": "replicated", "solve": "whole"},
    "split": {"layout": "replicated", "solve": "split"},
    "sharded": {"layout": "sharded"},
}
CASES = [
    (0.05, torch.float64, True),
    (0.05, torch.float32, False),
    (0.005, torch.float32, False),
    (0.005, torch.float32, True),
]
ONE_ROW_BLOCKS, THREE_ROW_BLOCKS = 1, 4 * 8 * PROTOTYPES * 3
Targets = dict[tuple[str, str, float, bool], tuple[Tensor, Tensor]]


def _objective(
    world: World,
    queue: dict[str, Any],
    dtype: torch.dtype = torch.float64,
    epsilon: float = 0.05,
    warm: bool = False,
    contrastive: float = 0.0,
    memory: int = 2**32,
) -> Objective:
    settings = ObjectiveSettings.model_validate(
        {
            "contrastive": {"weight": contrastive},
            "swamp": {
                "prototypes": PROTOTYPES,
                "eta": 0.25 / epsilon,
                "queue": {"start_when_filled": 0} | queue,
                "sinkhorn": {"iterations": 4, "warm_start": warm, "score_memory": memory},
            },
        }
    )
    return build_objective(settings, BatchPlan(BATCH, 1, 12, world.size), DIM, CPU, dtype, world.rank)


def _batch(step: int, world: World, dtype: torch.dtype) -> tuple[PairEmbeddings, Tensor, Tensor]:
    torch.manual_seed(step)
    rows = functional.normalize(torch.randn(2, BATCH, DIM, dtype=torch.float64), dim=2).to(dtype)
    prototypes = functional.normalize(torch.randn(PROTOTYPES, DIM, dtype=torch.float64), dim=1).to(dtype)
    local = BATCH // world.size
    mine = slice(world.rank * local, (world.rank + 1) * local)
    ids = 100 * step + torch.arange(BATCH)
    return PairEmbeddings(rows[0, mine], rows[1, mine], prototypes), ids[mine], torch.arange(BATCH)[mine]


def _run(objective: Objective, steps: range, world: World, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Targets of the whole batch of the last step, caught on their way to the loss."""
    caught: list[SoftTargets] = []
    real = swamp_module.swapped_targets

    def catching(*args: Any, **how: Any) -> SoftTargets:
        caught.append(real(*args, **how))
        return caught[-1]

    swamp_module.swapped_targets = catching
    try:
        for step in steps:
            objective(*_batch(step, world, dtype), step, world)
    finally:
        swamp_module.swapped_targets = real
    return distributed.gather(caught[-1].a, world), distributed.gather(caught[-1].b, world)


def _all_targets(world: World, modes: list[str]) -> Targets:
    found: Targets = {}
    for name, queue in QUEUES.items():
        for mode in modes:
            for epsilon, dtype, warm in CASES:
                objective = _objective(world, queue | MODES[mode], dtype, epsilon, warm)
                key = (name, mode, epsilon if dtype == torch.float32 else 0.0, warm)
                found[key] = _run(objective, range(STEPS), world, dtype)
    return found


def _bound(epsilon: float) -> float:
    """1e-10 in float64, which the keys call epsilon 0."""
    return max(1e-6, 4 * 2**-24 / epsilon) if epsilon else 1e-10


@pytest.fixture(scope="module")
def one_rank() -> Targets:
    return _all_targets(alone(), ["whole"])


@pytest.mark.parametrize("size", [2, 3, 4])
def test_all_layouts_and_solves_give_one_ranks_targets(size: int, one_rank: Targets) -> None:
    for found in run_on_ranks(_all_targets, size, list(MODES)):
        assert len(found) == len(QUEUES) * len(MODES) * len(CASES)
        for (name, _, epsilon, warm), targets in found.items():
            expected = one_rank[name, "whole", epsilon, warm]
            torch.testing.assert_close(targets, expected, rtol=0, atol=_bound(epsilon))


@pytest.mark.parametrize("memory", [ONE_ROW_BLOCKS, THREE_ROW_BLOCKS])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("epsilon", [0.05, 0.0005])
def test_streamed_scores_give_the_same_targets(memory: int, warm: bool, epsilon: float) -> None:
    queue = {"size": 31}
    kept = _objective(alone(), queue, epsilon=epsilon, warm=warm)
    streamed = _objective(alone(), queue, epsilon=epsilon, warm=warm, memory=memory)
    expected = _run(kept, range(STEPS), alone(), torch.float64)
    found = _run(streamed, range(STEPS), alone(), torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    rows = [objective.swamp._memory._scores.shape[1] for objective in (kept, streamed)]  # type: ignore[union-attr]
    assert rows == [31, 1 if memory == ONE_ROW_BLOCKS else 3]


def _streamed_and_sharded(world: World) -> tuple[Tensor, Tensor]:
    objective = _objective(world, {"size": 31, "layout": "sharded"}, memory=THREE_ROW_BLOCKS)
    return _run(objective, range(STEPS), world, torch.float64)


def test_streaming_works_on_uneven_shares() -> None:
    expected = _run(_objective(alone(), {"size": 31}), range(STEPS), alone(), torch.float64)
    for found in run_on_ranks(_streamed_and_sharded, 3):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


# -- who holds which row ---------------------------------------------------------------------------


def _pushed(rank: int, size: int, capacity: int, batches: int) -> Queue:
    """The queue of `rank` after some batches; the row with insertion index g is (g, -g) with id g."""
    queue = Queue(capacity, 2, CPU, torch.float64, QueueShard(BATCH, rank, size) if size > 1 else None)
    local = BATCH // size
    for step in range(batches):
        ids = step * BATCH + rank * local + torch.arange(local)
        rows = torch.stack((ids, -ids), dim=1).double()
        queue.push(rows, 10 * rows, ids, step)
    return queue


@pytest.mark.parametrize("capacity", [12, 13, 20, 24, 31, 100])
@pytest.mark.parametrize("size", [2, 3, 4, 12])
def test_ranks_together_hold_the_newest_rows_once(capacity: int, size: int) -> None:
    for batches in range(6):
        queues = [_pushed(rank, size, capacity, batches) for rank in range(size)]
        pushed = batches * BATCH
        newest = list(range(max(0, pushed - capacity), pushed))
        assert sorted(i for queue in queues for i in queue.ids.tolist()) == newest
        assert {len(queue) for queue in queues} == {len(newest)}
        for queue in queues:
            assert torch.equal(queue.a[:, 0], queue.ids.double())
            assert torch.equal(queue.b, 10 * queue.a)
            assert sorted(queue.ages(6).tolist()) == sorted(6 - i // BATCH for i in newest)


@pytest.mark.parametrize("batches", [1, 2, 5])
@pytest.mark.parametrize("capacity", [13, 31])
def test_saved_rows_are_dealt_to_the_ranks_and_slots_that_held_them(capacity: int, batches: int) -> None:
    state = _pushed(0, 1, capacity, batches).state(alone())
    for size in (2, 4):
        for rank in range(size):
            loaded = Queue(capacity, 2, CPU, torch.float64, QueueShard(BATCH, rank, size))
            loaded.load(state)
            expected = _pushed(rank, size, capacity, batches)
            assert torch.equal(loaded.ids, expected.ids)
            assert torch.equal(loaded.a, expected.a)
            assert torch.equal(loaded.steps, expected.steps)
            assert loaded.pushed == expected.pushed


def test_a_push_that_is_not_this_ranks_share_is_refused() -> None:
    queue = _pushed(0, 2, 20, 1)
    with pytest.raises(ValueError, match="5 pairs pushed, 6 expected"):
        queue.push(torch.zeros(5, 2), torch.zeros(5, 2), torch.arange(5), 0)
    sharded = _objective(World(0, 2, 0, CPU), {"size": 20, "layout": "sharded"})
    with pytest.raises(ValueError, match="built for rank 0 of 2, called on 0 of 1"):
        sharded(*_batch(0, alone(), torch.float64), 0, alone())


# -- state -----------------------------------------------------------------------------------------


def _saved_and_resumed(world: World, capacity: int) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
    """State after 3 steps, and targets of step 5 of: no stop, sharded again, replicated after all."""
    queue = {"size": capacity, "layout": "sharded"}
    first = _objective(world, queue, warm=True)
    _run(first, range(3), world, torch.float64)
    state = first.state(world)
    on_all = distributed.on_main(world, lambda: state)
    found = [_run(first, range(3, 5), world, torch.float64)]
    for layout in ("sharded", "replicated"):
        second = _objective(world, queue | {"layout": layout}, warm=True)
        second.load_state(on_all)
        found.append(_run(second, range(3, 5), world, torch.float64))
    return state, found


@pytest.mark.parametrize("capacity", [31, 200])
def test_a_sharded_state_is_the_table_of_one_rank_and_goes_on_to_the_same_bits(
    capacity: int,
) -> None:
    reference = _objective(alone(), {"size": capacity}, warm=True)
    _run(reference, range(3), alone(), torch.float64)
    expected = reference.state(alone())
    results = run_on_ranks(_saved_and_resumed, 3, capacity)
    for rank, (state, (whole, resumed, replicated)) in enumerate(results):
        if rank == 0:
            assert state.keys() == expected.keys()
            assert torch.equal(state["queue/ids"], expected["queue/ids"])
            assert all(state[k].dtype == v.dtype for k, v in expected.items())
            torch.testing.assert_close(state, expected, rtol=0, atol=1e-10)
        else:
            assert not any(name.startswith("queue/") for name in state)
        assert torch.equal(whole[0], resumed[0])
        assert torch.equal(whole[1], resumed[1])
        torch.testing.assert_close(replicated, whole, rtol=0, atol=1e-10)


def _chunked(world: World, chunk_bytes: int) -> dict[str, Tensor]:
    from swamp_dist.objective import queue as queue_module

    queue_module._CHUNK_BYTES = chunk_bytes
    return _pushed(world.rank, world.size, 31, 4).state(world)


def test_rows_travel_in_chunks_to_the_same_table() -> None:
    expected = _pushed(0, 1, 31, 4).state(alone())
    state = run_on_ranks(_chunked, 4, 4 * 16 * 3)[0]  # 3 rows of 16 bytes from each rank
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], rows) for name, rows in expected.items())
