"""The direct kernel, its one pass an iteration, and the precision of the score product."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import ot
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.config import SwampSettings
from swamp_dist.distributed import World
from swamp_dist.errors import UserError
from swamp_dist.objective.checks import check_swamp
from swamp_dist.objective.queue import Queue
from swamp_dist.objective.solve import masses
from swamp_dist.objective.solve.scores import ScorePrecision
from swamp_dist.objective.solve.sinkhorn import SinkhornSolution, StreamedScores, assign, solve
from swamp_dist.objective.targets import queue_scores
from tests.ranks import run_on_ranks


def _unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)


def _cosines(rows: int, prototypes: int, seed: int = 0) -> Tensor:
    return _unit(2, rows, 6, seed=seed) @ _unit(prototypes, 6, seed=seed + 1).t()


# -- the direct kernel -----------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
def test_in_range_a_cold_start_equals_pot_iteration_by_iteration(iterations: int) -> None:
    scores = _cosines(40, 17)
    rows, columns = torch.full((40,), 1 / 40.0).double(), torch.full((17,), 1 / 17.0).double()
    found = solve(scores, 40, 0.05, iterations=iterations, bound=1.0)
    for mine, s in zip(assign(scores, found.log_v, 0.05), scores, strict=True):
        plan = ot.sinkhorn(
            rows, columns, -s, 0.05, method="sinkhorn_log", numItermax=iterations, stopThr=0, warn=False
        )
        torch.testing.assert_close(mine, plan / plan.sum(dim=1, keepdim=True), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("start", [None, 0.0, 5.0])
@pytest.mark.parametrize("cached", [1, 37, 2**17])
def test_a_bound_changes_nothing_but_the_way(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, start: float | None, cached: int
) -> None:
    """Also blocks of one row, and blocks that do not divide the rows; several blocks of iterations."""
    monkeypatch.setattr(masses, "_CACHED_ELEMENTS", cached)
    scores = _cosines(50, 12).to(dtype)
    log_v = None if start is None else start * torch.linspace(-1, 1, 24, dtype=dtype).reshape(2, 12)
    plain, bounded = (
        solve(scores, 50, 0.05, iterations=12, log_v=log_v, bound=bound) for bound in (None, 1.0)
    )
    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(bounded.log_v, plain.log_v, rtol=0, atol=tolerance)
    torch.testing.assert_close(bounded.marginal_error, plain.marginal_error, rtol=0, atol=tolerance)


def test_the_direct_kernel_is_made_once_and_read_once_an_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    made, read = [], []
    exp2, mv = Tensor.exp2_, torch.mv
    monkeypatch.setattr(Tensor, "exp2_", lambda x: made.append(x.numel()) or exp2(x))
    monkeypatch.setattr(torch, "mv", lambda a, x: read.append(a.numel()) or mv(a, x))
    scores = _cosines(300, 20)
    solve(scores, 300, 0.05, iterations=12, bound=1.0)
    assert sum(made) == scores.numel()
    assert sum(read) == 11 * scores.numel()  # the first of a cold start only adds columns up


def test_potentials_out_of_reach_are_solved_the_careful_way() -> None:
    scores = _cosines(50, 20)
    far = torch.zeros(2, 20, dtype=torch.float64)
    far[:, 0] = 400.0
    plain, bounded = (
        solve(scores.float(), 50, 0.05, iterations=7, log_v=far.float(), bound=bound) for bound in (None, 1.0)
    )
    assert bounded.repeats == 5
    torch.testing.assert_close(bounded.log_v, plain.log_v, rtol=0, atol=1e-4)


def test_the_range_is_used_only_where_it_is_safe() -> None:
    def is_direct(epsilon: float, bound: float | None, dtype: torch.dtype) -> bool:
        return masses.Problem(torch.zeros(1, 1, 1, dtype=dtype), 1, epsilon, None, None, bound).is_direct

    assert is_direct(0.05, 1.0, torch.float32)
    assert not is_direct(0.05, None, torch.float32)
    assert not is_direct(0.05, 2.0, torch.float32)
    assert not is_direct(0.04, 1.0, torch.float32)
    assert is_direct(0.04, 1.0, torch.float64)
    assert not is_direct(0.005, 1.0, torch.float64)


def test_scores_that_are_not_finite_give_nan_in_range_too() -> None:
    scores = _cosines(20, 7)
    scores[0, 3, 2] = torch.nan
    assert solve(scores, 20, 0.05, bound=1.0).log_v.isnan().any()


def _split(world: World, cold: bool, momentum: bool) -> tuple[SinkhornSolution, SinkhornSolution]:
    scores = _cosines(41, 19)
    log_v = None if cold else torch.linspace(-2, 2, 38, dtype=torch.float64).reshape(2, 19)
    share = slice(0, 1) if world.rank == 0 else slice(1, 41) if world.rank == 1 else slice(0, 0)
    how: dict[str, Any] = {"iterations": 12, "log_v": log_v, "bound": 1.0, "momentum": momentum}
    whole = solve(scores, 41, 0.05, **how)
    return solve(scores[:, share], 41, 0.05, world=world, **how), whole


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize("momentum", [True, False])
def test_split_equals_whole_in_range_with_one_collective_an_iteration(cold: bool, momentum: bool) -> None:
    """Uneven shares: one row, all others, none."""
    results = run_on_ranks(_split, 3, cold, momentum)
    for found, whole in results:
        assert torch.equal(found.log_v, results[0][0].log_v)
        torch.testing.assert_close(found.log_v, whole.log_v, rtol=0, atol=1e-11)
        assert (found.collectives, found.repeats) == (12, 0)


# -- the score product -----------------------------------------------------------------------------


def _queue(dtype: torch.dtype) -> Queue:
    queue = Queue(30, 64, torch.device("cpu"), dtype)
    rows = _unit(2, 30, 64).to(dtype)
    queue.push(rows[0], rows[1], torch.arange(30), 0)
    return queue


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bfloat16_product_rounds_operands_and_nothing_else(dtype: torch.dtype) -> None:
    queue, prototypes = _queue(dtype), _unit(9, 64, seed=3).to(dtype)
    found = queue_scores(queue, slice(30), prototypes, precision="bfloat16")
    exact = queue_scores(queue, slice(30), prototypes)
    rounded = torch.stack((queue.a, queue.b)).bfloat16().double() @ prototypes.bfloat16().double().t()
    torch.testing.assert_close(found.double(), rounded, rtol=0, atol=1e-6)
    assert found.dtype == dtype
    assert 1e-5 < float((found - exact).abs().max()) < 2**-7


def test_a_solve_reads_the_queue_s_rounded_rows() -> None:
    """They are rounded at push and nowhere else: other operands give other scores."""
    queue = Queue(30, 64, torch.device("cpu"), precision="bfloat16")
    rows, prototypes = _unit(2, 30, 64).float(), _unit(9, 64, seed=3).float()
    queue.push(rows[0], rows[1], torch.arange(30), 0)
    found = queue_scores(queue, slice(2, 30), prototypes, precision="bfloat16")
    expected = queue_scores(_queue(torch.float32), slice(2, 30), prototypes, precision="bfloat16")
    assert torch.equal(found, expected)
    assert queue._rounded is not None
    queue._rounded[1].zero_()
    zeroed = queue_scores(queue, slice(2, 30), prototypes, precision="bfloat16")
    assert torch.equal(zeroed[0], found[0])
    assert not zeroed[1].any()
    assert torch.equal(queue_scores(queue, slice(2, 30), prototypes)[1], rows[1, 2:] @ prototypes.t())


def test_streamed_scores_have_the_precision_of_kept_ones() -> None:
    queue, prototypes = _queue(torch.float32), _unit(9, 64, seed=3).float()
    kept = queue_scores(queue, slice(30), prototypes, precision="bfloat16")
    streamed = StreamedScores((queue.a, queue.b), prototypes, torch.empty(2, 7, 9), "bfloat16")
    torch.testing.assert_close(torch.cat([block.clone() for block in streamed.blocks()], dim=1), kept)
    as_float = StreamedScores((queue.a, queue.b), prototypes, torch.empty(2, 7, 9))
    assert not torch.equal(torch.cat([block.clone() for block in as_float.blocks()], dim=1), kept)


def test_coarse_scores_are_refused_at_small_epsilon() -> None:
    def swamp(eta: float, precision: ScorePrecision) -> SwampSettings:
        return SwampSettings.model_validate({"eta": eta, "sinkhorn": {"score_precision": precision}})

    check_swamp(swamp(5, "bfloat16"), 2048)
    check_swamp(swamp(50, "float32"), 2048)
    with pytest.raises(UserError, match=r"score_precision = bfloat16 with epsilon = .* = 0.005.*\n.*float32"):
        check_swamp(swamp(50, "bfloat16"), 2048)


def test_coarse_scores_move_targets_no_more_than_the_bound_says() -> None:
    queue, prototypes = _queue(torch.float32), _unit(9, 64, seed=3).float()
    exact, coarse = (queue_scores(queue, slice(30), prototypes, precision=p) for p in ("float32", "bfloat16"))
    log_v = torch.zeros(2, 9)
    ratio = assign(coarse, log_v, 0.05).log() - assign(exact, log_v, 0.05).log()
    assert 0 < float(ratio.abs().max()) < 2 * 2**-7 / 0.05
    assert math.isclose(np.exp(float(ratio.abs().max())), 1, abs_tol=0.4)


# -- precision on an accelerator -------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the products of a GPU are not run")
def test_on_a_gpu_float32_is_no_tf32_and_bfloat16_sums_in_float32() -> None:
    rows, prototypes = _unit(512, 1024).cuda(), _unit(64, 1024, seed=3).cuda()
    queue = Queue(512, 1024, torch.device("cuda"))
    queue.push(rows.float(), rows.float(), torch.arange(512, device="cuda"), 0)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        exact = queue_scores(queue, slice(512), prototypes.float())
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    assert float((exact[0] - rows @ prototypes.t()).abs().max()) < 1e-6  # TF32: 1e-4
    coarse = queue_scores(queue, slice(512), prototypes.float(), precision="bfloat16")
    rounded = rows.bfloat16().double() @ prototypes.bfloat16().double().t()
    assert float((coarse[0] - rounded).abs().max()) < 1e-6
