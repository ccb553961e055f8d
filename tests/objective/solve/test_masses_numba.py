"""The compiled passes of a CPU, held to float64 and to the passes of plain torch."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from swamp_dist.distributed import World
from swamp_dist.objective.solve import masses_numba
from swamp_dist.objective.solve.masses import LOG2_E, Problem
from swamp_dist.objective.solve.scores import RowWeights
from swamp_dist.objective.solve.sinkhorn import SinkhornSolution, StreamedScores, assign, solve
from tests.ranks import run_on_ranks

SCALE = LOG2_E / 0.05


def _cosines(rows: int, prototypes: int, seed: int = 0) -> Tensor:
    """(2, n, K), float32."""
    generator = torch.Generator().manual_seed(seed)
    sides = functional.normalize(torch.randn(2, rows, 6, generator=generator), dim=2)
    return sides @ functional.normalize(torch.randn(prototypes, 6, generator=generator), dim=1).t()


def _potentials(prototypes: int, spread: float, seed: int = 1) -> Tensor:
    return spread * (torch.rand(2, prototypes, generator=torch.Generator().manual_seed(seed)) - 0.5)


def _reference(scores: Tensor, w: Tensor | None, factors: Tensor | None, absorbed: Tensor | None) -> Tensor:
    """The sums in float64."""
    exponents = scores.double() * SCALE
    if absorbed is not None:
        exponents = exponents + absorbed.double()[:, None]
        exponents = (exponents - exponents.amax(dim=2, keepdim=True)).clamp_min(-100)
    kernel = exponents.exp2()
    if w is not None:
        kernel = kernel / (kernel * w.double()[:, None]).sum(dim=2, keepdim=True)
    return (kernel if factors is None else kernel * factors.double()[..., None]).sum(dim=1)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.sampled_from([0, 1, 7, 8, 9, 255, 256, 257, 300, 521]),
    prototypes=st.sampled_from([1, 2, 15, 16, 17, 33, 100]),
    has_w=st.booleans(),
    weighting=st.sampled_from([None, "rows", "sides"]),
    spread=st.sampled_from([None, 0.0, 10.0, 200.0]),
)
def test_sums_equal_those_in_float64(
    rows: int, prototypes: int, has_w: bool, weighting: str | None, spread: float | None
) -> None:
    scores, kernel = _cosines(rows, prototypes), torch.full((2, rows, prototypes), torch.nan)
    w = 2 ** _potentials(prototypes, 6.0, seed=2) if has_w else None
    shape = {None: None, "rows": (rows,), "sides": (2, rows)}[weighting]
    generator = torch.Generator().manual_seed(3)
    factors = None if shape is None else (torch.rand(shape, generator=generator) > 0.3).float()
    absorbed = None if spread is None else _potentials(prototypes, spread)
    expected = _reference(scores, w, factors, absorbed)
    found = masses_numba.column_sums(scores, kernel, w, factors, masses_numba.Making(SCALE, -100.0, absorbed))
    rounding = 3e-6 + 3e-7 * (spread or 0.0)  # exponents of so many bits
    torch.testing.assert_close(found.double(), expected, rtol=rounding, atol=1e-28)
    assert kernel.isfinite().all()
    again = masses_numba.column_sums(scores, kernel, w, factors, None)  # of the kernel in memory
    assert torch.equal(again, found)


def test_the_direct_kernel_is_exp2_to_the_last_places() -> None:
    exponents = torch.linspace(-125.9, 125.9, 2 * 40 * 999).reshape(2, 40, 999)
    kernel = torch.empty_like(exponents)
    masses_numba.column_sums(exponents, kernel, None, None, masses_numba.Making(1.0, 0.0, None))
    expected = exponents.double().exp2()
    assert ((kernel.double() - expected) / expected).abs().max() < 2 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("spread", [0.0, 10.0, 300.0])
def test_a_plan_is_the_softmax_of_its_exponents(spread: float) -> None:
    scores, out = _cosines(300, 37), torch.empty(2, 300, 37)
    log_v = _potentials(37, spread)
    found = assign(scores, log_v, 0.05, out, is_compiled=True)
    assert found is out
    expected = torch.softmax(scores.double() / 0.05 + log_v.double()[:, None], dim=2)
    torch.testing.assert_close(found.double(), expected, rtol=5e-6 + 3e-7 * spread, atol=1e-28)
    torch.testing.assert_close(found.sum(dim=2), torch.ones(2, 300), rtol=1e-6, atol=0)


def test_potentials_are_centred_and_bounded() -> None:
    log2_w = torch.tensor([[-4.0, 0.0, 2.0], [-300.0, 300.0, 0.0]])
    centred, w = masses_numba.centre(log2_w)
    assert centred.tolist() == [[-3.0, 1.0, 3.0], [-300.0, 300.0, 0.0]]
    torch.testing.assert_close(w, torch.tensor([[2.0**-3, 2.0, 8.0], [2.0**-126, 2.0**126, 1.0]]))


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_bits_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    scores, asked = _cosines(1100, 20), []
    how: dict[str, Any] = {"iterations": 4, "bound": 1.0, "is_compiled": True}
    one = solve(scores, 1100, 0.05, **how).log_v
    pool = masses_numba._pool
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(masses_numba, "_pool", lambda n: asked.append(n) or pool(n))
    assert torch.equal(solve(scores, 1100, 0.05, **how).log_v, one)
    assert set(asked) == {threads}
    assert torch.equal(
        assign(scores, one, 0.05, is_compiled=True), assign(scores, one, 0.05, is_compiled=True)
    )


def test_several_threads_of_a_process_solve_at_once() -> None:
    problems = [_cosines(600, 20, seed=seed) for seed in range(6)]

    def found(scores: Tensor) -> Tensor:
        return solve(scores, 600, 0.05, iterations=5, bound=1.0, is_compiled=True).log_v

    alone = [found(scores) for scores in problems]
    with ThreadPoolExecutor(6) as pool:
        for mine, reference in zip(pool.map(found, problems), alone, strict=True):
            assert torch.equal(mine, reference)


# -- whole solves ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epsilon", "bound", "start"),
    [(0.05, 1.0, None), (0.05, 1.0, 3.0), (0.05, None, None), (0.05, 1.0, 60.0), (0.005, 1.0, None)],
)
@pytest.mark.parametrize("momentum", [False, True])
def test_a_solve_equals_that_of_plain_torch(
    epsilon: float, bound: float | None, start: float | None, momentum: bool
) -> None:
    """In range, from potentials out of reach, absorbed, and in the log domain first."""
    scores = _cosines(280, 30)
    how: dict[str, Any] = {
        "iterations": 12,
        "bound": bound,
        "momentum": momentum,
        "log_v": None if start is None else _potentials(30, start),
    }
    plain, found = (solve(scores, 280, epsilon, **how, is_compiled=c) for c in (False, True))
    exact = solve(
        scores.double(), 280, epsilon, **how | {"log_v": None if start is None else how["log_v"].double()}
    )
    for each in (plain, found):
        torch.testing.assert_close(each.log_v.double(), exact.log_v, rtol=0, atol=3e-4)
        torch.testing.assert_close(each.marginal_error.double(), exact.marginal_error, rtol=0, atol=1e-4)
    assert (found.repeats, found.collectives) == (plain.repeats, plain.collectives)


@pytest.mark.parametrize("literal", [None, 0.25])
def test_streamed_and_weighted_rows_equal_kept_ones(literal: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    sides = functional.normalize(torch.randn(2, 290, 6, generator=generator), dim=2)
    prototypes = functional.normalize(torch.randn(20, 6, generator=generator), dim=1)
    counts = (torch.rand(290, generator=generator) > 0.4).float()
    weights = RowWeights(counts, counts.sum(dtype=torch.float64))
    how: dict[str, Any] = {"iterations": 6, "bound": 1.0, "literal": literal, "is_compiled": True}
    kept = solve(sides @ prototypes.t(), 290, 0.05, weights=weights, **how)
    streamed = StreamedScores(list(sides), prototypes, torch.empty(2, 64, 20))
    found = solve(streamed, 290, 0.05, weights=weights, **how)
    rest = sides[:, counts > 0] @ prototypes.t()
    alone = solve(rest, int(counts.sum()), 0.05, **how | {"is_compiled": False})
    torch.testing.assert_close(found.log_v, kept.log_v, rtol=0, atol=2e-5)
    torch.testing.assert_close(kept.log_v, alone.log_v, rtol=0, atol=2e-5)


def _share(world: World, shares: list[int]) -> SinkhornSolution:
    rows = sum(shares)
    first = sum(shares[: world.rank])
    mine = _cosines(rows, 15)[:, first : first + shares[world.rank]]
    return solve(mine, rows, 0.05, world=world, iterations=6, bound=1.0, is_compiled=True)


def test_ranks_with_uneven_rows_find_the_same_potentials() -> None:
    shares = [300, 0, 21]
    found = run_on_ranks(_share, 3, shares, how="threads")
    whole = solve(_cosines(321, 15), 321, 0.05, iterations=6, bound=1.0, is_compiled=True)
    for each in found:
        assert torch.equal(each.log_v, found[0].log_v)
        torch.testing.assert_close(each.log_v, whole.log_v, rtol=0, atol=1e-5)
        assert each.collectives == 6


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("bound", [1.0, None])
def test_what_is_not_finite_is_seen(bad: float, bound: float | None) -> None:
    scores = _cosines(40, 12)
    scores[1, 3, 5] = bad
    assert solve(scores, 40, 0.05, bound=bound, is_compiled=True).log_v.isnan().any()


def test_float64_takes_plain_torch() -> None:
    scores = _cosines(30, 12).double()
    assert not Problem(scores, 30, 0.05, None, None, 1.0, is_compiled=True).is_compiled
    plain, asked = (solve(scores, 30, 0.05, iterations=4, is_compiled=c).log_v for c in (False, True))
    assert torch.equal(plain, asked)


def test_a_kernel_in_pieces_is_refused() -> None:
    scores = _cosines(20, 12)
    work = torch.empty(2, 12, 20).transpose(1, 2)
    with pytest.raises(RuntimeError, match="view"):
        solve(scores, 20, 0.05, iterations=2, bound=1.0, work=work, is_compiled=True)


_FULL_DISK = """
import logging, resource, torch
from swamp_dist.objective.solve import masses_numba
logging.basicConfig()
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
for log2_w in torch.tensor([[[-1.0, 0.0, 3.0]], [[0.0, 2.0, 4.0]]]):
    print(*((x * 4).round().tolist() for x in masses_numba.centre(log2_w)))
"""


def test_code_that_cannot_be_kept_on_a_full_disk_is_compiled_by_each_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder for it can be written when the module is imported, and no file when it is first used."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", _FULL_DISK], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "[[-8.0, -4.0, 8.0]] [[1.0, 2.0, 16.0]]",
        "[[-8.0, 0.0, 8.0]] [[1.0, 4.0, 16.0]]",
    ], done.stderr
    assert done.stderr.count("cannot be kept ([Errno 27] File too large") == 1
