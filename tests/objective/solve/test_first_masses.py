"""The literal start: POT on the cost -log softmax(s / tau), iterate by iterate, by all ways."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import ot
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.config import SwampSettings
from swamp_dist.distributed import World
from swamp_dist.objective.checks import check_swamp
from swamp_dist.objective.solve import masses
from swamp_dist.objective.solve.scores import RowWeights, StreamedScores
from swamp_dist.objective.solve.sinkhorn import assign, solve
from tests.ranks import run_on_ranks

ROWS, PROTOTYPES, TAU = 40, 17, 0.25


def _sides() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    unit = torch.randn(2 * ROWS + PROTOTYPES, 6, generator=generator, dtype=torch.float64)
    rows, prototypes = functional.normalize(unit, dim=1).split((2 * ROWS, PROTOTYPES))
    return rows.reshape(2, ROWS, 6), prototypes


def _scores() -> Tensor:
    sides, prototypes = _sides()
    return sides @ prototypes.t()


def _targets(scores: Tensor, epsilon: float, iterations: int, tau: float = TAU) -> Tensor:
    """POT's rows, scaled to 1: its last update is that of the columns, as in a solve of `iterations`."""
    even = [np.full(n, 1 / n) for n in scores.shape[1:]]
    plans = [
        ot.sinkhorn(
            *even, -torch.log_softmax(s / tau, dim=1).numpy(), epsilon / tau,
            method="sinkhorn_log", numItermax=iterations, stopThr=0, warn=False,
        )
        for s in scores
    ]  # fmt: skip
    found = torch.from_numpy(np.stack(plans))
    return found / found.sum(dim=2, keepdim=True)


@pytest.mark.parametrize("epsilon", [0.2, 0.05, 0.01, 0.005])
@pytest.mark.parametrize("bound", [None, 1.0])
@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
@pytest.mark.parametrize("tau", [TAU, 0.05])
def test_a_literal_start_equals_pot_on_the_papers_cost(
    monkeypatch: pytest.MonkeyPatch, epsilon: float, iterations: int, bound: float | None, tau: float
) -> None:
    monkeypatch.setattr(masses, "_CACHED_ELEMENTS", 7 * PROTOTYPES)
    scores = _scores()
    expected = _targets(scores, epsilon, iterations, tau)
    sides, prototypes = _sides()
    memory = torch.empty(2, 6, PROTOTYPES, dtype=torch.float64)
    for taken in (scores, StreamedScores((sides[0], sides[1]), prototypes, memory)):
        found = solve(taken, ROWS, epsilon, iterations=iterations, bound=bound, literal=tau)
        torch.testing.assert_close(assign(scores, found.log_v, epsilon), expected, rtol=0, atol=1e-10)
    plain = solve(scores, ROWS, epsilon, iterations=iterations, bound=bound)
    off = (assign(scores, plain.log_v, epsilon) - expected).abs().max()
    assert float(off) > 1e-6 or (iterations == 10 and epsilon == 0.2)


@pytest.mark.parametrize("epsilon", [0.05, 0.005])
@pytest.mark.parametrize("bound", [None, 1.0])
def test_in_float32_it_is_off_by_rounding(epsilon: float, bound: float | None) -> None:
    found = solve(_scores().float(), ROWS, epsilon, iterations=3, bound=bound, literal=TAU)
    targets = assign(_scores(), found.log_v.double(), epsilon)
    torch.testing.assert_close(targets, _targets(_scores(), epsilon, 3), rtol=0, atol=3e-7 / epsilon + 1e-6)


@pytest.mark.parametrize("bound", [None, 1.0])
@pytest.mark.parametrize("iterations", [1, 3])
def test_rows_that_do_not_count_are_left_out(bound: float | None, iterations: int) -> None:
    counts = torch.arange(ROWS) % 3 > 0
    weights = RowWeights(counts.double(), counts.sum(dtype=torch.float64))
    found = solve(_scores(), ROWS, 0.05, iterations=iterations, bound=bound, literal=TAU, weights=weights)
    kept = _scores()[:, counts]
    expected = _targets(kept, 0.05, iterations)
    torch.testing.assert_close(assign(kept, found.log_v, 0.05), expected, rtol=0, atol=1e-10)


def test_a_start_from_potentials_and_a_solve_to_its_end_do_not_know_it() -> None:
    log_v = torch.linspace(-1, 1, 2 * PROTOTYPES, dtype=torch.float64).reshape(2, PROTOTYPES)
    warm = [solve(_scores(), ROWS, 0.05, iterations=3, log_v=log_v, literal=tau) for tau in (None, TAU)]
    assert torch.equal(warm[0].log_v, warm[1].log_v)
    ends = [
        solve(_scores(), ROWS, 0.05, tolerance=1e-13, max_iterations=5000, literal=x) for x in (None, TAU)
    ]
    torch.testing.assert_close(ends[0].log_v, ends[1].log_v, rtol=0, atol=1e-9)


def _split(world: World) -> list[Tensor]:
    mine = _scores()[:, ROWS * world.rank // world.size : ROWS * (world.rank + 1) // world.size]
    how: dict[str, Any] = {"iterations": 3, "literal": TAU, "world": world}
    return [
        solve(mine, ROWS, epsilon, bound=bound, **how).log_v
        for epsilon, bound in ((0.05, 1.0), (0.05, None), (0.005, None))
    ]


def test_split_equals_whole() -> None:
    expected = [solve(_scores(), ROWS, e, iterations=3, literal=TAU).log_v for e in (0.05, 0.05, 0.005)]
    for found in run_on_ranks(_split, 3):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_a_warm_start_says_that_only_its_first_solve_is_cold(caplog: pytest.LogCaptureFixture) -> None:
    for warm in (True, False):
        caplog.clear()
        sinkhorn = {"start": "literal", "warm_start": warm, "iterations": 20}
        check_swamp(SwampSettings.model_validate({"prototypes": 5, "sinkhorn": sinkhorn}), 100)
        assert ("only the first solve" in caplog.text) is warm
    assert logging.getLogger("swamp_dist.objective.checks").isEnabledFor(logging.WARNING)
