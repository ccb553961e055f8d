import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor
from torch.nn import functional

from swamp_dist.distributed import World, alone
from swamp_dist.objective.solve import sinkhorn
from swamp_dist.objective.solve.sinkhorn import SinkhornSolution, assign, solve
from tests.ranks import run_on_ranks

EPSILONS = [0.5, 0.05, 0.005, 0.0005]


def _scores(rows: int, prototypes: int, dim: int = 6, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    x = functional.normalize(torch.randn(2, rows, dim, dtype=torch.float64), dim=2)
    return x @ functional.normalize(torch.randn(prototypes, dim, dtype=torch.float64), dim=1).t()


def _oracle(scores: Tensor, epsilon: float, iterations: int, log_v: Tensor | None = None) -> Tensor:
    """Plain log-domain Sinkhorn in float64: targets after column steps `iterations`."""
    x, (rows, prototypes) = scores.double() / epsilon, scores.shape[1:]
    f = torch.zeros(len(x), rows, 1, dtype=torch.float64)
    g = torch.zeros(len(x), 1, prototypes, dtype=torch.float64) if log_v is None else log_v.double()[:, None]
    for step in range(iterations):
        if step > 0 or log_v is not None:
            f = -torch.logsumexp(x + g, dim=2, keepdim=True)
        g = np.log(rows / prototypes) - torch.logsumexp(x + f, dim=1, keepdim=True)
    return torch.softmax(x + g, dim=2)


def _marginal_error(q: Tensor) -> float:
    return float((q.shape[2] * q.mean(dim=1) - 1).abs().mean(dim=1).max())


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_a_cold_start_equals_pot_iteration_by_iteration(epsilon: float, iterations: int) -> None:
    scores = _scores(40, 17)
    rows, columns = torch.full((40,), 1 / 40.0), torch.full((17,), 1 / 17.0)
    found = solve(scores, 40, epsilon, iterations=iterations)
    for mine, s in zip(assign(scores, found.log_v, epsilon), scores, strict=True):
        plan = ot.sinkhorn(
            rows.double(), columns.double(), -s, epsilon,
            method="sinkhorn_log", numItermax=iterations, stopThr=0, warn=False,
        )  # fmt: skip
        torch.testing.assert_close(mine, plan / plan.sum(dim=1, keepdim=True), rtol=0, atol=1e-10)


def test_at_small_epsilon_it_finds_the_linear_programs_optimum() -> None:
    rows, prototypes = 12, 4
    scores = _scores(rows, prototypes)[:1]
    constraints = [np.kron(np.eye(rows), np.ones(prototypes)), np.kron(np.ones(rows), np.eye(prototypes))]
    targets = np.r_[np.ones(rows), np.full(prototypes, rows / prototypes)]
    best = linprog(-scores.numpy().ravel(), A_eq=np.vstack(constraints), b_eq=targets)
    found = solve(scores, rows, 0.01, tolerance=1e-6, max_iterations=5000, check_every=50)
    assert float(found.marginal_error) < 1e-6
    q = assign(scores, found.log_v, 0.01)
    assert float((q * scores).sum()) == pytest.approx(-best.fun, abs=0.01)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("iterations", [1, 2, 7, 12])
def test_float32_follows_the_float64_oracle_cold_and_warm(epsilon: float, iterations: int) -> None:
    scores = _scores(150, 60)
    warm = solve(_scores(150, 60) + 0.02 * _scores(150, 60, seed=1), 150, epsilon, iterations=20).log_v
    for log_v in (None, warm):
        start = None if log_v is None else log_v.float()
        found = solve(scores.float(), 150, epsilon, iterations=iterations, log_v=start)
        expected = _oracle(scores, epsilon, iterations, log_v)
        torch.testing.assert_close(
            assign(scores, found.log_v.double(), epsilon), expected, rtol=0, atol=3e-7 / epsilon + 1e-6
        )
        assert found.iterations == iterations


@pytest.mark.parametrize("epsilon", [0.05, 0.0005])
@pytest.mark.parametrize("cold", [True, False])
def test_the_fast_and_the_careful_way_agree(
    monkeypatch: pytest.MonkeyPatch, epsilon: float, cold: bool
) -> None:
    scores = _scores(90, 33)
    start = None if cold else torch.linspace(-1, 1, 66, dtype=torch.float64).reshape(2, 33)
    fast = solve(scores, 90, epsilon, iterations=12, log_v=start)
    run_block = sinkhorn._run_block

    def careful_block(*args: Any, **kwargs: Any) -> Any:
        return run_block(*args, **kwargs | {"careful": True})

    monkeypatch.setattr(sinkhorn, "_run_block", careful_block)
    careful = solve(scores, 90, epsilon, iterations=12, log_v=start)
    torch.testing.assert_close(fast.log_v, careful.log_v, rtol=1e-11, atol=1e-9)
    torch.testing.assert_close(fast.marginal_error, careful.marginal_error, rtol=1e-9, atol=1e-12)


def test_a_block_out_of_range_is_repeated_and_then_right() -> None:
    scores = _scores(50, 20)
    bad_start = torch.zeros(2, 20, dtype=torch.float64)
    bad_start[:, 0] = 400.0  # every row's mass on prototype 0: the others underflow in float32
    found = solve(scores.float(), 50, 0.05, iterations=3, log_v=bad_start.float())
    assert found.repeats == 3
    expected = _oracle(scores, 0.05, 3, bad_start)
    torch.testing.assert_close(assign(scores, found.log_v.double(), 0.05), expected, rtol=0, atol=1e-4)
    assert solve(scores.float(), 50, 0.05, iterations=3).repeats == 0


def test_the_error_is_that_of_the_plan_entering_the_last_iteration_and_never_grows() -> None:
    scores = _scores(40, 17)
    errors = []
    for iterations in range(2, 15):
        found = solve(scores, 40, 0.02, iterations=iterations)
        entering = solve(scores, 40, 0.02, iterations=iterations - 1)
        assert float(found.marginal_error) == pytest.approx(
            _marginal_error(assign(scores, entering.log_v, 0.02)), abs=1e-12
        )
        errors.append(float(found.marginal_error))
    assert errors == sorted(errors, reverse=True)
    assert solve(scores, 40, 0.02, iterations=1).marginal_error.isnan()


def test_it_stops_at_the_tolerance_or_at_the_limit() -> None:
    scores = _scores(64, 16)
    found = solve(scores, 64, 0.1, tolerance=1e-3, max_iterations=500, check_every=5)
    assert found.iterations % 5 == 0
    assert found.iterations < 500
    assert float(found.marginal_error) < 1e-3
    assert _marginal_error(assign(scores, found.log_v, 0.1)) < 1e-3
    assert solve(scores, 64, 0.1, tolerance=1e-30, max_iterations=13).iterations == 13


def test_a_warm_start_from_the_solution_needs_one_block() -> None:
    scores = _scores(64, 16)
    cold = solve(scores, 64, 0.05, tolerance=1e-6, max_iterations=1000)
    warm = solve(scores, 64, 0.05, tolerance=1e-6, max_iterations=1000, log_v=cold.log_v)
    assert warm.iterations == 5 < cold.iterations


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_momentum_finds_the_same_solution_in_no_more_iterations(epsilon: float) -> None:
    scores = _scores(150, 30)
    stop: dict[str, Any] = {"tolerance": 0.02, "max_iterations": 5000, "check_every": 1}
    plain, fast = (solve(scores, 150, epsilon, momentum=m, **stop) for m in (False, True))
    assert fast.iterations <= plain.iterations + 1
    if epsilon <= 0.005:
        assert fast.iterations < 0.7 * plain.iterations
    assert _marginal_error(assign(scores, fast.log_v, epsilon)) < 0.03
    close: dict[str, Any] = {"tolerance": 1e-9, "max_iterations": 20_000}
    if epsilon >= 0.05:
        exact, found = (solve(scores, 150, epsilon, momentum=m, **close) for m in (False, True))
        torch.testing.assert_close(found.log_v, exact.log_v, rtol=0, atol=1e-6)


def test_momentum_does_not_depend_on_where_blocks_end() -> None:
    scores = _scores(90, 33)
    every = [solve(scores, 90, 0.005, momentum=True, iterations=12, check_every=n).log_v for n in (1, 5, 12)]
    torch.testing.assert_close(every[0], every[1], rtol=0, atol=1e-9)
    torch.testing.assert_close(every[0], every[2], rtol=0, atol=1e-9)


def test_momentum_starts_over_where_the_error_grows() -> None:
    at_rest = sinkhorn._State.at(torch.zeros(2, 3))
    move = torch.tensor([[0.5, 0.0, -0.5], [0.1, 0.0, -0.1]])
    state = sinkhorn._next_state(at_rest, move, is_start=False, momentum=True, measures=True)
    worse = torch.stack((0.5 * move[0], 9 * move[1]))
    state = sinkhorn._next_state(state, worse, is_start=False, momentum=True, measures=True)
    assert state.age.flatten().tolist() == [2, 0]  # of each problem by itself
    assert torch.equal(state.ahead[1], state.log2_v[1])
    assert not torch.equal(state.ahead[0], state.log2_v[0])


@given(
    rows=st.integers(1, 40),
    prototypes=st.integers(1, 30),
    epsilon=st.sampled_from(EPSILONS),
    scale=st.sampled_from([1e-3, 1.0, 100.0, 1e4]),
    kind=st.sampled_from(["random", "duplicates", "one_hot", "dead", "constant"]),
    iterations=st.integers(1, 12),
    warm=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=150, deadline=None)
def test_targets_are_always_distributions(
    rows: int,
    prototypes: int,
    epsilon: float,
    scale: float,
    kind: str,
    iterations: int,
    warm: bool,
    seed: int,
) -> None:
    scores = _scores(rows, prototypes, seed=seed).float()
    if kind == "duplicates":
        scores = scores[:, :1].expand_as(scores).contiguous()
    elif kind == "one_hot":
        scores = functional.one_hot(scores.argmax(dim=2), prototypes).float()
    elif kind == "dead":
        scores[:, :, 0] = -1.0
    elif kind == "constant":
        scores = torch.ones_like(scores)
    start = 1e3 * torch.randn(2, prototypes) if warm else None
    found = solve(scale * scores, rows, epsilon, iterations=iterations, log_v=start)
    q = assign(scale * scores, found.log_v, epsilon)
    assert q.isfinite().all()
    torch.testing.assert_close(q.sum(dim=2), torch.ones(2, rows))
    if scale == 1.0 and epsilon >= 0.05 and not warm:
        torch.testing.assert_close(q.double(), _oracle(scores, epsilon, iterations), rtol=0, atol=1e-4)


@given(shift=st.floats(-100, 100), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_row_offsets_and_the_order_of_rows_do_not_matter(shift: float, seed: int) -> None:
    scores = _scores(20, 7, seed=seed)
    reference = assign(scores, solve(scores, 20, 0.05, iterations=30).log_v, 0.05)
    order = torch.randperm(20)
    shifted = scores[:, order] + shift * torch.rand(1, 20, 1, dtype=torch.float64)
    # Offsets of rows change the iterates of a cold start but not of one that begins with normalised rows.
    start = torch.zeros(2, 7, dtype=torch.float64)
    plain = solve(scores, 20, 0.05, iterations=30, log_v=start)
    moved = solve(shifted, 20, 0.05, iterations=30, log_v=start)
    torch.testing.assert_close(plain.log_v, moved.log_v, rtol=1e-7, atol=1e-7)
    permuted = solve(scores[:, order], 20, 0.05, iterations=30)
    torch.testing.assert_close(assign(scores[:, order], permuted.log_v, 0.05), reference[:, order])


def test_scores_that_are_not_finite_give_nan_and_no_endless_loop() -> None:
    scores = _scores(20, 7)
    scores[0, 3, 2] = torch.nan
    assert solve(scores, 20, 0.05).log_v.isnan().any()


# -- over ranks ------------------------------------------------------------------------------------

CASES = [(rows, eps, warm) for rows, eps, warm in itertools.product([7, 41], EPSILONS, [False, True])]


def _shares(rows: int, size: int, uneven: bool) -> list[slice]:
    if uneven:  # all on the last rank but one row of the first; ranks between hold nothing
        edges = [0, *[min(1, rows)] * (size - 1), rows]
    else:
        edges = [rows * r // size for r in range(size + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _counted(calls: list[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return function(*args, **kwargs)

    return call


def _solve_split(world: World) -> list[tuple[SinkhornSolution, int]]:
    results = []
    real = torch.distributed.all_reduce
    for (rows, epsilon, warm), uneven in itertools.product(CASES, [False, True]):
        scores = _scores(rows, 19)
        log_v = torch.linspace(-2, 2, 38, dtype=torch.float64).reshape(2, 19) if warm else None
        share = _shares(rows, world.size, uneven)[world.rank]
        calls: list[str] = []
        torch.distributed.all_reduce = _counted(calls, "all_reduce", real)
        found = solve(scores[:, share], rows, epsilon, world=world, iterations=7, log_v=log_v)
        torch.distributed.all_reduce = real
        results.append((found, len(calls)))
    return results


@pytest.mark.parametrize("size", [2, 3, 4])
def test_split_equals_whole_with_any_shares_and_counts_its_collectives(size: int) -> None:
    results = run_on_ranks(_solve_split, size)
    cases = list(itertools.product(CASES, [False, True]))
    for index, ((rows, epsilon, warm), _) in enumerate(cases):
        log_v = torch.linspace(-2, 2, 38, dtype=torch.float64).reshape(2, 19) if warm else None
        whole = solve(_scores(rows, 19), rows, epsilon, world=alone(), iterations=7, log_v=log_v)
        assert whole.collectives == 0
        for result in results:
            found, calls = result[index]
            assert torch.equal(found.log_v, results[0][index][0].log_v)
            torch.testing.assert_close(found.log_v, whole.log_v, rtol=1e-12, atol=1e-11)
            torch.testing.assert_close(found.marginal_error, whole.marginal_error, rtol=1e-9, atol=1e-12)
            assert calls == found.collectives
            if found.repeats == 0:
                assert calls == 7 + (not warm or epsilon < 0.01)
    assert any(result[0].repeats == 0 for result in results[0])
