"""Sinkhorn: balanced assignment of rows to prototypes (paper, eq. 5), on one rank or split over many.

Shape letters: M problems solved together (the two modalities), N rows over all ranks, n of them here
(any number, 0 included), K prototypes.

The assignment is q_ik = softmax_k(s_ik / epsilon + log v_k): its rows sum to 1 by construction, and v is
sought such that every prototype gets N / K of the rows. One iteration measures the column masses
m_k = sum_i q_ik and sets log v_k += log(N / K) - log m_k. The masses are all that ranks exchange. The
paper's cost -log softmax(s / tau) under its eta is s / epsilon with epsilon = tau / eta, up to a factor of
each row that the row's own normalisation removes. A cold start takes its first masses from exp(s / epsilon)
itself (u = 1): the order of SwAV and of POT, whose iterates these then are, one by one. Under u = 1 the
paper's literal cost has first masses of softmax(s / tau)^eta instead, and its iterates differ until they have
converged: `literal`.

A plain exp(s / epsilon) leaves float32 for epsilon below 0.01, so a block of iterations runs one of three
ways. Where a bound on the scores shows that nothing can leave the range, the kernel is exp(s / epsilon) as it
is, made once per solve. Else log v is absorbed into a kernel once per block. Either needs one read of the
kernel per iteration and is valid while log v stays near what was absorbed, which the reduced masses tell
every rank alike. If not, the block is repeated the careful way: first iteration in the log domain, then a
fresh kernel for each. The passes are in `masses`.

`momentum` measures the masses not at the last potentials but some way ahead of them (Nesterov 1983; the dual
in v is concave and smooth, and an iteration is its gradient step), and starts over in a problem whose error
grew. It costs no row of the matrix, no collective and no host read more.

Rows may have weights w_i of 0 or 1: m_k = sum_i w_i q_ik, and N is their sum. The solution is that of the
rows that count alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from swamp_dist.distributed import World
from swamp_dist.objective.solve.assignment import assign
from swamp_dist.objective.solve.block_graphs import BlockGraphs, Tensors
from swamp_dist.objective.solve.first_masses import cold_masses, direct_cold_masses
from swamp_dist.objective.solve.masses import (
    LOG2_E,
    Problem,
    half_range,
    kernel_masses,
    log_domain_masses,
)
from swamp_dist.objective.solve.scores import RowWeights, StreamedScores

__all__ = ["SinkhornSolution", "StreamedScores", "assign", "solve"]

_SMALL_EPSILON = 0.01
"""Below it exp(s / epsilon) of a cosine leaves float32 (e^88 is its largest), and potentials move far at the
start."""


@dataclass(frozen=True)
class SinkhornSolution:
    """Column potentials of a balanced assignment, and how they were found."""

    log_v: Tensor
    """(M, K), natural logarithm, mean 0; `assign` makes targets of them for any row. nan, on all ranks,
    where a score of any rank is not finite; never otherwise."""
    marginal_error: Tensor
    """0-d: mean over k of |m_k * K / N - 1|, the largest of the M problems, of the plan that entered the
    last iteration. Without momentum the error never grows, so it bounds that of the plan returned. nan
    after a cold start of one iteration, which measures no plan."""
    iterations: int
    repeats: int
    """Iterations that had to be done again the careful way, beyond `iterations`."""
    collectives: int
    """All-reduces this rank issued: one per iteration. Unless a bound keeps the scores in range, one more for
    the first of a cold start, of a warm start at epsilon below 0.01, of every repeated block and of one
    that follows a block of large moves."""


def solve(
    scores: Tensor | StreamedScores,
    total_rows: int,
    epsilon: float,
    *,
    world: World | None = None,
    log_v: Tensor | None = None,
    iterations: int | None = None,
    max_iterations: int = 50,
    tolerance: float = 0.01,
    check_every: int = 5,
    momentum: bool = False,
    bound: float | None = None,
    work: Tensor | None = None,
    graphs: BlockGraphs | None = None,
    weights: RowWeights | None = None,
    literal: float | None = None,
    is_compiled: bool = False,
) -> SinkhornSolution:
    """Balance M assignments of `total_rows` rows, of which this rank holds scores (M, n, K).

    Args:
        scores: similarities of rows and prototypes, on any scale.
        total_rows: N over all ranks, at least 1.
        epsilon: entropic regularisation in units of the scores.
        world: the ranks that hold the other rows; None where all rows are here, and nothing is sent.
        log_v: potentials (M, K) to start from, the same on all ranks; None starts cold.
        iterations: fixed number; None stops at `tolerance` or `max_iterations`.
        max_iterations: limit of a solve that stops at `tolerance`.
        tolerance: marginal error to stop at.
        check_every: iterations of a block; the error is read between blocks only.
        momentum: accelerate; other iterates, the same fixed point.
        bound: no score of any rank is larger in absolute value (1 for cosines), the same on all ranks; None
            where that is not known. Of no use above 22 * epsilon in float32, where 2^(s / epsilon) leaves
            2^-31..2^31 (`Problem.is_direct`): 31.5 * ln 2 = 21.8.
        work: memory for the kernel, like `scores` or like the memory of streamed ones, overwritten; a caller
            that solves every step keeps it.
        graphs: on a GPU, of a caller that keeps scores and `work` where they are while `total_rows` stays the
            same; given on all ranks or on none. Streamed scores are not recorded, for their prototypes move,
            nor is a kernel that is kept, for it is made once per solve.
        weights: which rows count; given on all ranks or on none. N is `weights.total` then, and `total_rows`
            only tells one recorded solve from another. With `graphs`, kept where they are too.
        literal: tau, the temperature of the cost -log softmax(s / tau) that a cold start under u = 1 begins
            with; None begins with -s. A start from `log_v` is the same for either.
        is_compiled: whether float32 rows on a CPU are passed over by compiled code (`passes`): the same
            formula, rounded in another way.
    """
    problem = Problem(
        scores, total_rows, epsilon, world, work, bound, weights, literal, is_compiled=is_compiled
    )
    run = _run_block if graphs is None else partial(_run_recorded, graphs)
    if graphs is not None:
        _begin(graphs, problem, total_rows, epsilon)
    limit = iterations or max_iterations
    # 1. Start cold, or from the potentials of the last solve.
    state = _State.at(problem.vectors(0.0) if log_v is None else log_v.to(problem.kernel.dtype) * LOG2_E)
    done = repeats = collectives = 0
    # After these starts log v still moves too far for one kernel. Stateless: a resumed run does the same.
    moves_far = epsilon < _SMALL_EPSILON and (log_v is not None or min(check_every, limit) > 3)
    careful = moves_far and not problem.is_direct
    # 2. Iterate in blocks; between two the host reads how far the potentials are.
    while True:
        steps, cold = min(check_every, limit - done), log_v is None and done == 0
        block = run(problem, state, steps, cold=cold, careful=careful, momentum=momentum)
        error, drift = block.figures.tolist()  # the only host read
        collectives += block.collectives
        # Log v left the range of its kernel: do the block again, the careful way.
        if drift > problem.reach and not careful:
            careful, repeats, problem.is_direct = True, repeats + steps, False
            continue
        # Keep the block, and stop where it is the last or the error is small enough.
        state, done = block.state, done + steps
        is_balanced = iterations is None and error < tolerance
        if done >= limit or is_balanced or not math.isfinite(drift):
            break
        # Potentials tend to move less and less; the direct kernel says how far they are in all.
        careful = drift > problem.reach / 2 and not problem.is_direct
    # 3. Natural logarithms with mean 0: a factor common to all of v changes no target.
    log_v = (state.log2_v - state.log2_v.mean(dim=1, keepdim=True)) / LOG2_E
    sent = 0 if problem.world is None else collectives
    return SinkhornSolution(log_v, block.figures[0], done, repeats, sent)


def _begin(graphs: BlockGraphs, problem: Problem, total_rows: int, epsilon: float) -> None:
    """Tell `graphs` which solve begins; ValueError where its scores are streamed or its kernel is kept."""
    scores = problem.scores
    if isinstance(scores, StreamedScores) or not problem.is_fused:
        raise ValueError("a block is recorded where scores are kept and their kernel is not")
    memory, weights = [problem.kernel, scores], problem.weights
    memory += [] if weights is None else [weights.mine, weights.total]
    graphs.begin((total_rows, scores.shape[2], epsilon, weights is None, problem.literal), memory)


class _State(NamedTuple):
    """Where iterations stand. The same on all ranks."""

    log2_v: Tensor
    """(M, K) potentials found last."""
    ahead: Tensor
    """(M, K) where the next masses are measured: the same, or farther with momentum."""
    age: Tensor
    """(M, 1) iterations since momentum was at rest."""
    error: Tensor
    """(M, 1) marginal error measured last."""

    @staticmethod
    def at(log2_v: Tensor) -> _State:
        """At rest."""
        rest = torch.zeros_like(log2_v[:, :1])
        return _State(log2_v, log2_v, rest, torch.full_like(rest, torch.inf))


@dataclass(frozen=True)
class _Block:
    state: _State
    figures: Tensor
    """(2,): marginal error before the last iteration, and the farthest that log2 v went from what was
    absorbed first (inf where something is not finite). The same on all ranks."""
    collectives: int


def _run_block(
    problem: Problem, state: _State, steps: int, *, cold: bool, careful: bool, momentum: bool
) -> _Block:
    """`steps` iterations from `state`; the first of them under u = 1 where `cold`."""
    # How far the potentials go from what the kernel holds: from 0 for the direct one.
    origin: Tensor | None = None
    passed = [state.ahead] if problem.is_direct else []
    for step in range(steps):
        # Column masses at the potentials, then the potentials that would even them out.
        starts_cold, first_in_log = cold and step == 0, careful and step == 0
        if starts_cold:
            log2_masses = direct_cold_masses(problem) if problem.is_direct else cold_masses(problem)
        elif first_in_log:
            log2_masses = log_domain_masses(problem, state.ahead)
        else:
            log2_masses, origin = _kernel_masses(problem, state.ahead, origin, renew=careful)
        move = problem.log2_share - log2_masses
        is_asked = momentum or step == steps - 1
        state = _next_state(state, move, is_start=starts_cold, momentum=momentum, measures=is_asked)
        if problem.is_direct or origin is not None:
            passed.append(state.ahead)
    # The figures that the host reads.
    drift, error = _drift(passed, origin, state.ahead), state.error.amax()
    if cold and steps == 1:
        error = torch.full_like(error, torch.nan)  # a cold start measures no plan
    # Not torch.where: its other value would be a tensor of the host, which no graph may wait for.
    drift = drift.masked_fill(~state.ahead.isfinite().all(), torch.inf)
    return _Block(state, torch.stack((error, drift)), _calls(problem, steps, cold=cold, careful=careful))


def _drift(passed: list[Tensor], origin: Tensor | None, like: Tensor) -> Tensor:
    """How far potentials (M, K) went from what a kernel holds, 0 for the direct one; 0-d."""
    if not passed:
        return like.new_zeros(())
    potentials = torch.stack(passed)
    return half_range(potentials if origin is None else potentials - origin)


def _kernel_masses(
    problem: Problem, ahead: Tensor, origin: Tensor | None, *, renew: bool
) -> tuple[Tensor, Tensor | None]:
    """log2 of the column masses at `ahead` by a kernel, and what the first kernel of the block absorbed.

    The direct kernel absorbs nothing. Else the block's first kernel absorbs the potentials of its iteration,
    and so does every further one where `renew` asks for a fresh kernel per iteration.
    """
    if problem.is_direct:
        return kernel_masses(problem, None, ahead, renew=False), origin
    renew = renew or origin is None
    absorbed = ahead if renew or origin is None else origin
    masses = kernel_masses(problem, absorbed, ahead - absorbed, renew=renew)
    return masses, absorbed if origin is None else origin


def _calls(problem: Problem, steps: int, *, cold: bool, careful: bool) -> int:
    """All-reduces of a block."""
    return steps + (not problem.is_direct and (cold or careful))


def _run_recorded(
    graphs: BlockGraphs,
    problem: Problem,
    state: _State,
    steps: int,
    *,
    cold: bool,
    careful: bool,
    momentum: bool,
) -> _Block:
    """`_run_block` as a graph. What names it is the same on all ranks."""

    def iterate(inputs: Tensors) -> Tensors:
        block = _run_block(problem, _State(*inputs), steps, cold=cold, careful=careful, momentum=momentum)
        return *block.state, block.figures

    name = (steps, problem.is_direct, cold, careful, momentum)
    *moved, figures = graphs.run(name, iterate, tuple(state))
    return _Block(_State(*moved), figures, _calls(problem, steps, cold=cold, careful=careful))


def _next_state(state: _State, move: Tensor, *, is_start: bool, momentum: bool, measures: bool) -> _State:
    """After an iteration that measured log2 (N / K) - log2 m = `move` (M, K) at `state.ahead`.

    Without momentum only the error of a block's last iteration is read: `measures` says which.
    """
    log2_v = state.ahead + move
    if is_start:
        return _State.at(log2_v)
    if not measures:
        return state._replace(log2_v=log2_v, ahead=log2_v)
    error = (torch.exp2(-move) - 1).abs().mean(dim=1, keepdim=True)
    if not momentum:
        return state._replace(log2_v=log2_v, ahead=log2_v, error=error)
    age = (state.age + 1).masked_fill(error > state.error, 0.0)
    ahead = log2_v + age / (age + 3) * (log2_v - state.log2_v)
    return _State(log2_v, ahead, age, error)
