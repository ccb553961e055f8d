"""The term keeps to one program for its solves, and scores the batch once where it is the whole queue."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World, alone
from swamp_dist.objective import targets
from swamp_dist.objective.objective import Objective, build_objective
from swamp_dist.objective.solve import passes
from swamp_dist.objective.terms import swamp
from swamp_dist.records import BatchPlan, LossTerms, PairEmbeddings
from tests.ranks import run_on_ranks

PAIRS, DIM, PROTOTYPES = 24, 5, 7


def _objective(world: World, queue: int, dtype: torch.dtype = torch.float32, **sinkhorn: Any) -> Objective:
    term = {
        "prototypes": PROTOTYPES,
        "queue": {"size": queue, "start_when_filled": 0},
        "sinkhorn": {"iterations": 3, **sinkhorn},
    }
    settings = ObjectiveSettings.model_validate({"swamp": term})
    plan = BatchPlan(PAIRS, 1, PAIRS, world.size)
    return build_objective(settings, plan, DIM, torch.device("cpu"), dtype, world.rank)


def _step(objective: Objective, step: int, world: World, dtype: torch.dtype = torch.float32) -> LossTerms:
    generator = torch.Generator().manual_seed(step)

    def unit(rows: int) -> Tensor:
        drawn = torch.randn(rows, DIM, generator=generator, dtype=torch.float64)
        return functional.normalize(drawn, dim=1).to(dtype)

    a, b, prototypes = unit(PAIRS), unit(PAIRS), unit(PROTOTYPES)
    mine = slice(world.rank * PAIRS // world.size, (world.rank + 1) * PAIRS // world.size)
    given = PairEmbeddings(a[mine], b[mine], prototypes.requires_grad_())
    ids = torch.arange(PAIRS)[mine]
    return objective(given, ids, ids, step, world)


def test_a_commit_says_what_passed_and_a_resumed_run_has_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = alone()
    monkeypatch.setattr(passes, "WORTH", 1)
    whole = _objective(world, 40)
    assert whole.passes == "numba"
    kept = [float(_step(whole, step, world).total.detach()) for step in range(4)]

    before = _objective(world, 40)
    for step in range(2):
        _step(before, step, world)
    state = before.state(world)
    monkeypatch.undo()
    after = _objective(world, 40)
    assert after.passes == "torch"  # what a new training of these sizes takes
    after.load_state(state)
    assert after.passes == "numba"
    assert [float(_step(after, step, world).total.detach()) for step in (2, 3)] == kept[2:]


def test_a_commit_of_an_earlier_version_goes_on_as_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    world = alone()
    whole = _objective(world, 40)
    kept = [float(_step(whole, step, world).total.detach()) for step in range(4)]
    before = _objective(world, 40)
    for step in range(2):
        _step(before, step, world)
    state = before.state(world)
    del state["passes"]
    monkeypatch.setattr(passes, "WORTH", 1)
    after = _objective(world, 40)
    assert after.passes == "numba"
    after.load_state(state)
    assert after.passes == "torch"
    assert [float(_step(after, step, world).total.detach()) for step in (2, 3)] == kept[2:]


def _products(world: World, queue: int, steps: int) -> tuple[int, list[float]]:
    """Rows of the score products of the queue, and the losses."""
    rows: list[int] = []
    product = targets.score_product
    targets.score_product = lambda mine, *rest: rows.append(len(mine)) or product(mine, *rest)  # type: ignore[func-returns-value]
    try:
        objective = _objective(world, queue)
        losses = [float(_step(objective, step, world).total.detach()) for step in range(steps)]
    finally:
        targets.score_product = product
    return sum(rows), losses


def test_the_batch_is_scored_once_where_it_is_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    world = alone()
    counted, losses = _products(world, PAIRS, 3)
    assert counted == 0
    monkeypatch.setattr(swamp.Queue, "is_batch", lambda queue, rows: False)
    again, twice = _products(world, PAIRS, 3)
    assert again == 2 * 3 * PAIRS
    assert losses == twice  # bit by bit


def test_a_longer_queue_is_scored_whole() -> None:
    counted, _ = _products(alone(), PAIRS + 1, 3)
    assert counted == 2 * (PAIRS + 2 * (PAIRS + 1))


def _losses(world: World, queue: int) -> list[float]:
    objective = _objective(world, queue, torch.float64)
    return [float(_step(objective, step, world, torch.float64).total.detach()) for step in range(3)]


def test_ranks_score_what_they_hold() -> None:
    whole = _losses(alone(), PAIRS)
    for_ranks = torch.tensor(run_on_ranks(_losses, 2, PAIRS, how="threads"), dtype=torch.float64)
    torch.testing.assert_close(for_ranks.mean(dim=0).tolist(), whole, rtol=0, atol=1e-10)
