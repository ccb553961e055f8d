"""Gathers are on their way while a rank computes its scores; nothing depends on when they arrive."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World
from swamp_dist.objective import objective as objective_module
from swamp_dist.objective.objective import build_objective
from swamp_dist.objective.products import Precision
from swamp_dist.records import BatchPlan, PairEmbeddings
from tests.ranks import run_on_ranks

BATCH, DIM, PROTOTYPES = 12, 8, 5


def _steps(world: World, layout: str) -> list[Tensor]:
    """Losses and gradients of three steps in float32."""
    tree = {
        "swamp": {
            "prototypes": PROTOTYPES,
            "queue": {"size": 20, "start_when_filled": 0, "layout": layout},
            "sinkhorn": {"iterations": 3},
        }
    }
    plan = BatchPlan(BATCH, 1, 4, world.size)
    settings = ObjectiveSettings.model_validate(tree)
    objective = build_objective(settings, plan, DIM, torch.device("cpu"), rank=world.rank)
    local, found = BATCH // world.size, []
    mine = slice(world.rank * local, (world.rank + 1) * local)
    for step in range(3):
        torch.manual_seed(step)
        rows = functional.normalize(torch.randn(2 * BATCH + PROTOTYPES, DIM), dim=1)
        a, b, p = (x.clone().requires_grad_() for x in rows.split((BATCH, BATCH, PROTOTYPES)))
        batch = PairEmbeddings(a[mine], b[mine], p)
        terms = objective(batch, torch.arange(local), torch.arange(BATCH)[mine], step, world)
        terms.total.backward()
        found += [terms.total.detach(), *(x.grad for x in (a, b, p) if x.grad is not None)]
    return found


class _Counted:
    """all_gather_single that counts the calls on their way; `at_once` lets none be on its way."""

    def __init__(self, at_once: bool) -> None:
        self.at_once = at_once
        self.in_flight = 0
        self._real = dist.all_gather_single

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        work = self._real(*args, **kwargs)
        assert work is not None
        if self.at_once:
            work.wait()
            return _Work(self, None)
        self.in_flight += 1
        return _Work(self, work)


class _Work:
    def __init__(self, counted: _Counted, work: Any) -> None:
        self._counted, self._work = counted, work

    def wait(self) -> None:
        if self._work is not None:
            self._work.wait()
            self._counted.in_flight -= 1
            self._work = None


def _counted_steps(world: World, layout: str, at_once: bool) -> tuple[list[Tensor], list[int], int]:
    """What the steps find, the gathers under way while my scores are computed, those never waited for."""
    counted, seen = _Counted(at_once), []
    own_scores, real = objective_module._own_scores, dist.all_gather_single

    def watched(mine: PairEmbeddings, precision: Precision) -> Any:
        seen.append(counted.in_flight)
        return own_scores(mine, precision)

    dist.all_gather_single, objective_module._own_scores = counted, watched  # type: ignore[assignment]
    found = _steps(world, layout)
    dist.all_gather_single, objective_module._own_scores = real, own_scores
    return found, seen, counted.in_flight


@pytest.mark.parametrize(("layout", "in_flight"), [("replicated", 4), ("sharded", 2)])
def test_gathers_run_while_my_scores_are_computed_and_change_no_bit(layout: str, in_flight: int) -> None:
    overlapped = run_on_ranks(_counted_steps, 2, layout, False)
    at_once = run_on_ranks(_counted_steps, 2, layout, True)
    for (found, seen, left), (expected, none, _) in zip(overlapped, at_once, strict=True):
        assert seen == [in_flight] * 3
        assert none == [0] * 3
        assert left == 0
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
