"""Blocks of iterations as graphs: when they are recorded, what they give, that no host is asked."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from swamp_dist.objective.queue import Queue, QueueShard
from swamp_dist.objective.solve import masses, sinkhorn
from swamp_dist.objective.solve.block_graphs import BlockGraphs, Tensors
from swamp_dist.objective.solve.masses import Problem
from swamp_dist.objective.solve.scores import RowWeights
from swamp_dist.objective.solve.sinkhorn import StreamedScores, solve
from swamp_dist.objective.solve.solve_memory import SolveMemory


class _Recorder:
    """Stands in for a GPU: results keep their tensors, and are filled anew from the same inputs."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, function: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], None]]:
        results = tuple(result.clone().fill_(torch.nan) for result in function())
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            for kept, new in zip(results, function(), strict=True):
                kept.copy_(new)

        return results, replay


def _scores(step: int, rows: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    x = functional.normalize(torch.randn(2, rows, 6, generator=generator), dim=2)
    return x @ functional.normalize(torch.randn(9, 6, generator=generator), dim=1).t()


def _column_sums(
    scores: Tensor,
    scale: float,
    lowest: float,
    absorbed: Tensor | None,
    w: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """The GPU's pass in plain torch."""
    exponents = scores * scale
    if absorbed is not None:
        exponents += absorbed[:, None]
        exponents = (exponents - exponents.amax(dim=2, keepdim=True)).clamp_min(lowest)
    kernel = exponents.exp2()
    plan = kernel / (kernel * w[:, None]).sum(dim=2, keepdim=True)
    return (plan if weights is None else plan * weights[:, None]).sum(dim=1)


def _plain_sums(scores: Tensor, scale: float, weights: Tensor | None = None) -> Tensor:
    kernel = (scores * scale).exp2()
    return (kernel if weights is None else kernel * weights[..., None]).sum(dim=1)


def _log2_row_sums(scores: Tensor, scale: float) -> Tensor:
    return torch.logsumexp(scores * scale / masses.LOG2_E, dim=2) * masses.LOG2_E


def _weights(step: int) -> RowWeights:
    counts = (torch.rand(40, generator=torch.Generator().manual_seed(step)) < 0.6).float()
    return RowWeights(counts, counts.double().sum())


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = SimpleNamespace(column_sums=_column_sums, plain_sums=_plain_sums, log2_row_sums=_log2_row_sums)
    monkeypatch.setattr(masses, "fused_passes", lambda: sums)
    monkeypatch.setattr(masses, "is_fused", lambda scores: True)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("bound", [None, 1.0])
@pytest.mark.parametrize(("epsilon", "start"), [(0.05, None), (0.05, 0.3), (0.05, 200.0), (0.005, None)])
@pytest.mark.parametrize(
    ("momentum", "weighted", "literal"),
    [(True, False, None), (False, False, None), (False, True, None), (False, True, 0.25)],
)
def test_recorded_blocks_change_no_bit(
    epsilon: float,
    start: float | None,
    bound: float | None,
    momentum: bool,
    weighted: bool,
    literal: float | None,
) -> None:
    """Where rows have weights, other rows count and another number of them in every solve."""
    recorder = _Recorder()
    graphs, memory, work = BlockGraphs(recorder), torch.empty(2, 40, 9), torch.empty(2, 40, 9)
    log_v = None if start is None else start * torch.linspace(-1, 1, 18).reshape(2, 9)
    how: dict[str, Any] = {"iterations": 17, "log_v": log_v, "bound": bound, "momentum": momentum}
    how["literal"] = literal
    kept = RowWeights(torch.empty(40), torch.empty((), dtype=torch.float64)) if weighted else None
    found = []
    for step in range(4):
        memory.copy_(_scores(step))
        if kept is not None:
            kept.mine.copy_(_weights(step).mine)
            kept.total.copy_(_weights(step).total)
        found.append(solve(memory, 40, epsilon, work=work, graphs=graphs, weights=kept, **how))
    for step, solution in enumerate(found):  # none was overwritten by a later one
        weights = _weights(step) if weighted else None
        expected = solve(_scores(step), 40, epsilon, weights=weights, **how)
        assert torch.equal(solution.log_v, expected.log_v)
        assert torch.equal(solution.marginal_error, expected.marginal_error)
        assert (solution.iterations, solution.repeats) == (expected.iterations, expected.repeats)
    assert 0 < recorder.recorded <= 4
    assert recorder.replayed >= 4 * 4 - 2 * 4  # but for the first use of each


def test_a_block_is_run_first_recorded_second_and_forgotten_with_its_problem() -> None:
    recorder = _Recorder()
    graphs, seen = BlockGraphs(recorder), []

    def function(inputs: Tensors) -> Tensors:
        seen.append(inputs[0])
        return (inputs[0] + 1,)

    memory = [torch.zeros(3)]
    given = torch.zeros(())
    for counts in [(0, 0), (1, 1), (1, 2)]:
        graphs.begin("a", memory)
        assert float(graphs.run("block", function, (given,))[0]) == 1
        assert (recorder.recorded, recorder.replayed) == counts
    assert seen[0] is given
    assert all(x is not given for x in seen[1:])
    graphs.begin("b", [torch.zeros(4)])
    graphs.run("block", function, (given,))
    assert recorder.recorded == 1
    graphs.run("block", function, (given,))
    assert recorder.recorded == 2


@pytest.mark.usefixtures("as_on_a_gpu")
def test_memory_that_moves_and_streamed_scores_are_refused() -> None:
    graphs = BlockGraphs(_Recorder())
    scores, work = _scores(0), torch.empty(2, 40, 9)
    solve(scores, 40, 0.05, work=work, graphs=graphs)
    with pytest.raises(ValueError, match="keep it from step to step"):
        solve(scores.clone(), 40, 0.05, work=work, graphs=graphs)
    solve(_scores(0, 30), 30, 0.05, graphs=graphs)  # another number of rows may lie anywhere
    sides = torch.zeros(40, 3), torch.zeros(40, 3)
    with pytest.raises(ValueError, match="scores are kept"):
        solve(StreamedScores(sides, torch.zeros(9, 3), work), 40, 0.05, graphs=graphs)


def test_a_kept_kernel_is_not_recorded() -> None:
    with pytest.raises(ValueError, match="their kernel is not"):
        solve(_scores(0), 40, 0.05, graphs=BlockGraphs(_Recorder()))


def test_all_ranks_record_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them streams: 3 rows of 4 prototypes do not fit, 2 do."""
    prototypes = torch.zeros(4, 5)
    memory = SolveMemory(2 * 16 * 4)
    memory.fit(2, 2, prototypes)
    assert memory.graphs is None  # a CPU
    monkeypatch.setattr("swamp_dist.objective.solve.solve_memory.is_fused", lambda scores: True)
    first = memory.fit(2, 2, prototypes)
    assert memory.graphs is not None
    assert memory.fit(2, 3, prototypes) is first
    assert memory.graphs is None
    assert memory.fit(3, 3, prototypes).shape[1] == 2
    assert memory.fit(0, 2, prototypes).shape[1] == 0


@pytest.mark.parametrize(("pushed", "size"), [(1, 2), (2, 2), (3, 3), (3, 1)])
def test_the_rank_with_most_rows_is_known_on_all(pushed: int, size: int) -> None:
    held = []
    for rank in range(size):
        queue = Queue(7, 3, torch.device("cpu"), shard=QueueShard(6, rank, size))
        for step in range(pushed):
            rows = torch.zeros(6 // size, 3)
            queue.push(rows, rows, torch.zeros(6 // size, dtype=torch.int64), step)
        held.append((queue.held, queue.most_held()))
    assert {most for _, most in held} == {max(rows for rows, _ in held)}


# -- what a recording allows -----------------------------------------------------------------------


class _NoHost(TorchDispatchMode):
    """Refuses to read a value, and to mix in a tensor of the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(func)
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter((args, kwargs, out)):
            assert not isinstance(tensor, Tensor) or tensor.device.type == "meta", func
        return out


@pytest.mark.parametrize("fused", [True, False])
def test_a_block_never_asks_the_host(monkeypatch: pytest.MonkeyPatch, fused: bool) -> None:
    """Every way through a block, on tensors without content; `fused` with the GPU's pass left out."""
    pass_ = SimpleNamespace(
        column_sums=lambda scores, scale, lowest, absorbed, w, weights: torch.empty_like(w),
        plain_sums=lambda scores, scale, weights: scores.new_empty(2, 9),
        log2_row_sums=lambda scores, scale: scores.new_empty(scores.shape[:2]),
    )
    monkeypatch.setattr(masses, "fused_passes", lambda: pass_)
    monkeypatch.setattr(masses, "is_fused", lambda scores: fused)
    ways = itertools.product((40, 0), (None, 1.0), (None, 0.25), *[(True, False)] * 4)
    for rows, bound, literal, cold, careful, momentum, weighted in ways:
        total = torch.empty((), dtype=torch.float64, device="meta")
        weights = RowWeights(torch.empty(rows, device="meta"), total) if weighted else None
        scores = torch.empty(2, rows, 9, device="meta")
        problem = Problem(scores, 40, 0.05, None, None, bound, weights, literal)
        state = sinkhorn._State.at(problem.vectors(0.0))
        with _NoHost():
            block = sinkhorn._run_block(problem, state, 5, cold=cold, careful=careful, momentum=momentum)
        assert block.figures.device.type == "meta"


def test_the_check_above_sees_a_host_read() -> None:
    with _NoHost():
        x = torch.zeros(2, device="meta")
        with pytest.raises(AssertionError):
            x * torch.tensor(2.0)
        with pytest.raises((AssertionError, RuntimeError)):
            x.sum().item()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: no graph is recorded")
@pytest.mark.parametrize(("epsilon", "bound"), [(0.05, 1.0), (0.05, None), (0.005, None)])
def test_on_a_gpu_graphs_change_no_bit(epsilon: float, bound: float | None) -> None:
    graphs, memory = BlockGraphs(), torch.empty(2, 40, 9, device="cuda")
    work = masses.new_kernel(memory)
    for step in range(5):
        memory.copy_(_scores(step))
        found = solve(memory, 40, epsilon, iterations=17, bound=bound, work=work, graphs=graphs)
        expected = solve(memory.clone(), 40, epsilon, iterations=17, bound=bound)
        assert torch.equal(found.log_v, expected.log_v)
    assert any(block is not None for block in graphs._blocks.values())
