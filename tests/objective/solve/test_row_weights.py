"""A solve in which rows weigh 0 is the solve of the others, by every way through it."""

from __future__ import annotations

from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from swamp_dist.distributed import World
from swamp_dist.objective.solve import masses, sinkhorn
from swamp_dist.objective.solve.scores import RowWeights
from swamp_dist.objective.solve.sinkhorn import StreamedScores, assign, solve
from tests.ranks import run_on_ranks

ROWS, PROTOTYPES, DIM = 45, 9, 6


def _sides(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    unit = torch.randn(2 * ROWS + PROTOTYPES, DIM, generator=generator, dtype=torch.float64)
    rows, prototypes = functional.normalize(unit, dim=1).split((2 * ROWS, PROTOTYPES))
    return rows.reshape(2, ROWS, DIM), prototypes


def _weights(counts: Tensor, dtype: torch.dtype = torch.float64) -> RowWeights:
    return RowWeights(counts.to(dtype), counts.sum(dtype=torch.float64))


def _drawn(share: float, seed: int = 0) -> Tensor:
    counts = torch.rand(ROWS, generator=torch.Generator().manual_seed(seed)) < share
    counts[-1] = True
    return counts


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("bound", [None, 1.0])
@pytest.mark.parametrize("start", [None, 0.3, 60.0])
@pytest.mark.parametrize("epsilon", [0.05, 0.005, 0.0005])
@pytest.mark.parametrize("momentum", [False, True])
def test_rows_that_do_not_count_are_as_if_they_were_not_there(
    monkeypatch: pytest.MonkeyPatch,
    epsilon: float,
    start: float | None,
    bound: float | None,
    streamed: bool,
    momentum: bool,
) -> None:
    """Cold, warm and out of range (repeated blocks), blocks of rows that do not divide them."""
    monkeypatch.setattr(masses, "_CACHED_ELEMENTS", 7 * PROTOTYPES)
    (a, b), prototypes = _sides()
    counts = _drawn(0.5)
    log_v = None if start is None else start * torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(2, 9)
    how: dict[str, Any] = {"iterations": 7, "log_v": log_v, "bound": bound, "momentum": momentum}
    scores: Tensor | StreamedScores = torch.stack((a @ prototypes.t(), b @ prototypes.t()))
    dropped = scores[:, counts]  # type: ignore[index]
    if streamed:
        scores = StreamedScores((a, b), prototypes, torch.empty(2, 4, PROTOTYPES, dtype=torch.float64))
    found = solve(scores, ROWS, epsilon, weights=_weights(counts), **how)
    expected = solve(dropped, int(counts.sum()), epsilon, **how)
    torch.testing.assert_close(found.log_v, expected.log_v, rtol=0, atol=1e-10 / epsilon)
    torch.testing.assert_close(found.marginal_error, expected.marginal_error, rtol=1e-9, atol=1e-12)
    assert (found.iterations, found.repeats) == (expected.iterations, expected.repeats)
    targets = [assign(dropped, solution.log_v, epsilon) for solution in (found, expected)]
    torch.testing.assert_close(*targets, rtol=0, atol=1e-10)


@pytest.mark.parametrize("bound", [None, 1.0])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_a_cold_start_equals_pot_on_the_rows_that_count(iterations: int, bound: float | None) -> None:
    (a, b), prototypes = _sides(1)
    scores, counts = torch.stack((a @ prototypes.t(), b @ prototypes.t())), _drawn(0.6, 1)
    found = solve(scores, ROWS, 0.05, iterations=iterations, weights=_weights(counts), bound=bound)
    kept = int(counts.sum())
    even = np.full(kept, 1 / kept), np.full(PROTOTYPES, 1 / PROTOTYPES)
    for mine, s in zip(assign(scores[:, counts], found.log_v, 0.05), scores[:, counts], strict=True):
        plan = ot.sinkhorn(
            *even, -s.numpy(), 0.05, method="sinkhorn_log", numItermax=iterations, stopThr=0, warn=False
        )
        expected = torch.from_numpy(plan / plan.sum(axis=1, keepdims=True))
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-10)


@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), epsilon=st.sampled_from([0.2, 0.05, 0.005]))
@settings(max_examples=30, deadline=None)
def test_float32_drops_rows_too(seed: int, share: float, epsilon: float) -> None:
    (a, b), prototypes = _sides(seed)
    scores, counts = torch.stack((a @ prototypes.t(), b @ prototypes.t())), _drawn(share, seed)
    weights = _weights(counts, torch.float32)
    found = solve(scores.float(), ROWS, epsilon, iterations=4, weights=weights)
    expected = solve(scores[:, counts], int(counts.sum()), epsilon, iterations=4)
    targets = [assign(scores, solution.log_v.double(), epsilon) for solution in (found, expected)]
    torch.testing.assert_close(*targets, rtol=0, atol=3e-7 / epsilon + 1e-6)


def test_weights_of_one_change_nothing_but_rounding_and_none_change_no_bit() -> None:
    (a, b), prototypes = _sides()
    scores = torch.stack((a @ prototypes.t(), b @ prototypes.t()))
    found = solve(scores, 99, 0.05, iterations=5, weights=_weights(torch.ones(ROWS)))
    expected = solve(scores, ROWS, 0.05, iterations=5)
    torch.testing.assert_close(found.log_v, expected.log_v, rtol=0, atol=1e-12)


def test_the_careful_way_drops_rows_whose_scores_would_set_a_columns_maximum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float32 what lies 100 powers of 2 below the maximum of its column is cut off."""
    run_block = sinkhorn._run_block

    def careful_block(*args: Any, **kwargs: Any) -> Any:
        return run_block(*args, **kwargs | {"careful": True})

    monkeypatch.setattr(sinkhorn, "_run_block", careful_block)
    (a, b), prototypes = _sides()
    scores, counts = torch.stack((a @ prototypes.t(), b @ prototypes.t())), _drawn(0.5)
    scores[:, ~counts] = 50 * scores[:, ~counts]
    for start in (None, torch.zeros(2, PROTOTYPES)):
        found = solve(
            scores.float(), ROWS, 0.05, iterations=3, weights=_weights(counts, torch.float32), log_v=start
        )
        warm = None if start is None else start.double()
        expected = solve(scores[:, counts], int(counts.sum()), 0.05, iterations=3, log_v=warm)
        torch.testing.assert_close(found.log_v.double(), expected.log_v, rtol=0, atol=1e-4)


def _split(world: World, last_rank_counts: bool) -> Tensor:
    (a, b), prototypes = _sides()
    scores, counts = torch.stack((a @ prototypes.t(), b @ prototypes.t())), _drawn(0.5)
    mine = slice(ROWS * world.rank // world.size, ROWS * (world.rank + 1) // world.size)
    if not last_rank_counts:
        counts[ROWS * (world.size - 1) // world.size :] = False
    total = counts.sum(dtype=torch.float64)
    weights = RowWeights(counts[mine].double(), total)
    found = [
        solve(scores[:, mine], ROWS, epsilon, iterations=4, weights=weights, world=world, bound=bound).log_v
        for epsilon, bound in ((0.05, 1.0), (0.05, None), (0.005, None))
    ]
    kept = scores[:, counts]
    expected = [solve(kept, len(kept[0]), epsilon, iterations=4).log_v for epsilon in (0.05, 0.05, 0.005)]
    return torch.stack([torch.stack(found), torch.stack(expected)])


@pytest.mark.parametrize("last_rank_counts", [True, False])
def test_split_equals_whole_also_where_no_row_of_a_rank_counts(last_rank_counts: bool) -> None:
    for found, expected in run_on_ranks(_split, 3, last_rank_counts):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
