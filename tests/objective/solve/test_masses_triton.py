"""The GPU's pass under Triton's interpreter, in a process of its own: import decides for the interpreter."""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
import os
import pickle
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.objective.solve import masses
from swamp_dist.objective.solve.scores import RowWeights
from swamp_dist.objective.solve.sinkhorn import SinkhornSolution, StreamedScores, solve

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed here (it is made for Linux)"
)
LOWEST = -100.0
CASES: dict[str, tuple[int, int, float, bool]] = {
    # rows, prototypes, epsilon, whether potentials are absorbed
    "direct": (21, 13, 0.05, False),
    "ragged": (37, 100, 0.05, True),
    "power of two": (16, 64, 0.05, True),
    "one row": (1, 5, 0.05, True),
    "one prototype": (9, 1, 0.05, True),
    "no rows": (0, 7, 0.05, True),
    "clamped": (19, 30, 0.0005, True),
    "many rows": (43, 3, 0.01, True),
}


def _problem(rows: int, prototypes: int, absorbed: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    generator = torch.Generator().manual_seed(rows * prototypes)
    x = functional.normalize(torch.randn(2, rows, 6, generator=generator), dim=2)
    p = functional.normalize(torch.randn(prototypes, 6, generator=generator), dim=1)
    potentials, log2_w = 4 * torch.randn(2, 2, prototypes, generator=generator)
    return x @ p.t(), potentials if absorbed else None, log2_w.exp2()


def _weights(rows: int) -> Tensor:
    """Of the rows: some count, some do not."""
    return (torch.rand(rows, generator=torch.Generator().manual_seed(rows)) < 0.6).float()


def _oracle(
    scores: Tensor, scale: float, absorbed: Tensor | None, w: Tensor, weights: Tensor | None = None
) -> Tensor:
    """The definition, in float64; rows of weight 0 are left out."""
    if weights is not None:
        scores = scores[:, weights > 0]
    exponents = scores.double() * scale
    if absorbed is not None and scores.shape[1]:
        exponents = exponents + absorbed.double()[:, None]
        exponents = (exponents - exponents.amax(dim=2, keepdim=True)).clamp_min(LOWEST)
    kernel = exponents.exp2()
    return (kernel / (kernel * w.double()[:, None]).sum(dim=2, keepdim=True)).sum(dim=1)


def _interpreted_sums() -> dict[str, list[tuple[Tensor, bool]]]:
    """Of each case: in one read, in two reads, and of scores that are a slice of larger memory; without
    weights (False), then with."""
    from swamp_dist.objective.solve import masses_triton

    found = {}
    most = masses_triton.ONE_READ_PROTOTYPES
    for name, (rows, prototypes, epsilon, absorbed) in CASES.items():
        scores, potentials, w = _problem(rows, prototypes, absorbed)
        how = (masses.LOG2_E / epsilon, LOWEST, potentials, w)
        memory = torch.full((2, rows + 3, prototypes), torch.nan)
        memory[:, :rows] = scores
        found[name] = []
        for weights in (None, _weights(rows)):
            sums = [masses_triton.column_sums(x, *how, weights) for x in (scores, memory[:, :rows])]
            masses_triton.ONE_READ_PROTOTYPES = 0
            sums.append(masses_triton.column_sums(scores, *how, weights))
            masses_triton.ONE_READ_PROTOTYPES = most
            found[name] += [(x, weights is not None) for x in sums]
    return found


def _wide_sums() -> tuple[Tensor, Tensor]:
    """Rows in more than one piece, columns in more than one tile, direct and not."""
    from swamp_dist.objective.solve import masses_triton

    masses_triton.ONE_READ_PROTOTYPES, masses_triton._PIECE, masses_triton._COLUMNS = 0, 32, 16
    masses_triton._ROWS_EACH = 1
    results = []
    for absorbed in (True, False):
        scores, potentials, w = _problem(45, 75, absorbed)
        results.append(masses_triton.column_sums(scores, masses.LOG2_E / 0.05, LOWEST, potentials, w))
    return results[0], results[1]


def _nan_sums() -> list[Tensor]:
    from swamp_dist.objective.solve import masses_triton

    found = []
    for most in (2**13, 0):
        masses_triton.ONE_READ_PROTOTYPES = most
        for absorbed in (True, False):
            scores, potentials, w = _problem(5, 6, absorbed)
            scores[0, 2, 3] = torch.nan
            found.append(masses_triton.column_sums(scores, 20.0, LOWEST, potentials, w))
    return found


SOLVES: dict[str, dict[str, Any]] = {
    "direct": {"epsilon": 0.05, "bound": 1.0},
    "direct, warm": {"epsilon": 0.05, "bound": 1.0, "log_v": 0.5},
    "absorbed": {"epsilon": 0.05},
    "small epsilon": {"epsilon": 0.005},
    "careful": {"epsilon": 0.05, "bound": 1.0, "log_v": 200.0},
    "streamed": {"epsilon": 0.05, "streamed": True},
    "direct, weighted": {"epsilon": 0.05, "bound": 1.0, "weighted": True},
    "small epsilon, weighted": {"epsilon": 0.005, "weighted": True},
    "streamed, weighted": {"epsilon": 0.05, "streamed": True, "weighted": True},
    "literal": {"epsilon": 0.05, "bound": 1.0, "literal": 0.25},
    "literal, weighted": {"epsilon": 0.05, "bound": 1.0, "literal": 0.25, "weighted": True},
    "literal, streamed, small epsilon": {"epsilon": 0.005, "streamed": True, "literal": 0.25},
}


def _solve(
    epsilon: float,
    log_v: float = 0.0,
    streamed: bool = False,
    bound: float | None = None,
    weighted: bool = False,
    literal: float | None = None,
) -> Any:
    scores, _, _ = _problem(40, 11, absorbed=False)
    sides = functional.normalize(torch.randn(2, 40, 5, generator=torch.Generator().manual_seed(1)), dim=2)
    taken: Any = (
        scores if not streamed else StreamedScores((sides[0], sides[1]), sides[0, :11], scores[:, :7])
    )
    start = log_v * torch.linspace(-1, 1, 22).reshape(2, 11) if log_v else None
    counts = _weights(40)
    weights = RowWeights(counts, counts.double().sum()) if weighted else None
    how: dict[str, Any] = {"bound": bound, "weights": weights, "literal": literal}
    return solve(taken, 40, epsilon, iterations=7 if literal is None else 2, log_v=start, **how)


def _fused_solves() -> dict[str, tuple[SinkhornSolution, tuple[int, ...]]]:
    """Whole solves with the GPU's pass, and the shape of the memory for a kernel that they make."""
    from swamp_dist.objective import memory

    masses.is_fused = lambda scores: True
    memory._SCRATCH_ELEMENTS = 66  # of 11 prototypes: 6 rows at a time
    shape = tuple(masses.new_kernel(torch.empty(2, 40, 11)).shape)
    return {name: (_solve(**how), shape) for name, how in SOLVES.items()}


def _main(pipe: Connection) -> None:
    torch.set_num_threads(1)
    # Pickled here: multiprocessing would share a tensor's memory with a process that is about to end.
    pipe.send_bytes(pickle.dumps((_interpreted_sums(), _nan_sums(), _wide_sums())))
    from swamp_dist.objective.solve import masses_triton

    masses_triton.ONE_READ_PROTOTYPES, masses_triton._ROWS_EACH = 2**13, 8
    pipe.send_bytes(pickle.dumps(_fused_solves()))


@pytest.fixture(scope="module")
def interpreted() -> Any:
    """What the interpreter finds: (sums, sums of nan, wide sums), and solves."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        process = context.Process(target=_main, args=(theirs,))
        process.start()
    theirs.close()
    try:
        return pickle.loads(ours.recv_bytes()), pickle.loads(ours.recv_bytes())
    finally:
        process.join(10)


@pytest.mark.parametrize("name", CASES)
def test_either_way_of_reading_gives_the_sums_of_the_definition(interpreted: Any, name: str) -> None:
    rows, prototypes, epsilon, absorbed = CASES[name]
    scores, potentials, w = _problem(rows, prototypes, absorbed)
    how = (scores, masses.LOG2_E / epsilon, potentials, w)
    expected = {False: _oracle(*how).float(), True: _oracle(*how, _weights(rows)).float()}
    # Rounding of an exponent e is relative e * 2^-24 of its power.
    tolerance = 2e-6 + 2**-22 / epsilon
    assert len(interpreted[0][0][name]) == 6
    for found, weighted in interpreted[0][0][name]:
        torch.testing.assert_close(found, expected[weighted], rtol=tolerance, atol=0)
    if name == "clamped":
        assert float(expected[False].min()) < 2.0**-60  # a column that only clamped entries fill


def test_a_score_that_is_no_number_is_seen_in_its_problem_alone(interpreted: Any) -> None:
    for found in interpreted[0][1]:
        assert found[0].isnan().all()
        assert found[1].isfinite().all()


def test_rows_in_pieces_and_columns_in_tiles(interpreted: Any) -> None:
    for found, absorbed in zip(interpreted[0][2], (True, False), strict=True):
        scores, potentials, w = _problem(45, 75, absorbed)
        expected = _oracle(scores, masses.LOG2_E / 0.05, potentials, w).float()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", SOLVES)
def test_a_solve_by_either_pass_is_the_same(interpreted: Any, name: str) -> None:
    found, kernel = interpreted[1][name]
    plain = _solve(**SOLVES[name])
    torch.testing.assert_close(found.log_v, plain.log_v, rtol=0, atol=2e-6 / SOLVES[name]["epsilon"])
    torch.testing.assert_close(found.marginal_error, plain.marginal_error, rtol=1e-3, atol=1e-5)
    assert (found.iterations, found.repeats) == (plain.iterations, plain.repeats)
    assert (found.repeats > 0) == (name == "careful")
    assert kernel == (2, 6, 11)


def test_the_pass_is_a_gpus_in_float32_alone() -> None:
    assert not masses.is_fused(torch.empty(1))
    assert masses.is_fused(torch.empty(1, device="meta")) is False
    assert masses.new_kernel(torch.empty(2, 40, 11)).shape == (2, 40, 11)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the kernels are interpreted only")
@pytest.mark.parametrize(("rows", "prototypes"), [(2048, 500), (700, 12_289), (300, 20_000), (64, 100_000)])
@pytest.mark.parametrize("absorbed", [True, False])
def test_on_a_gpu_compiled_kernels_give_the_sums_of_the_definition(
    rows: int, prototypes: int, absorbed: bool
) -> None:
    from swamp_dist.objective.solve import masses_triton

    scores, potentials, w = _problem(rows, prototypes, absorbed)
    on_gpu = [None if x is None else x.cuda() for x in (scores, potentials, w)]
    assert masses.is_fused(scores.cuda())
    scale = masses.LOG2_E / 0.05
    found = masses_triton.column_sums(on_gpu[0], scale, LOWEST, on_gpu[1], on_gpu[2])  # type: ignore[arg-type]
    torch.testing.assert_close(found.cpu(), _oracle(scores, scale, potentials, w).float(), rtol=2e-5, atol=0)
    again = masses_triton.column_sums(on_gpu[0], scale, LOWEST, on_gpu[1], on_gpu[2])  # type: ignore[arg-type]
    assert torch.equal(found, again)
    assert os.environ.get("TRITON_INTERPRET") is None
    assert math.isfinite(float(found.sum()))
