"""Sinkhorn: balanced assignment of rows to prototypes (paper, eq. 5), on one rank or split over many.

Shape letters: M problems solved together (the two modalities), N rows over all ranks, n of them here
(any number, 0 included), K prototypes.

The assignment is q_ik = softmax_k(s_ik / epsilon + log v_k): its rows sum to 1 by construction, and v is
sought such that every prototype gets N / K of the rows. One iteration measures the column masses
m_k = sum_i q_ik and sets log v_k += log(N / K) - log m_k. The masses are all that ranks exchange. The
paper's cost -log softmax(s / tau) under its eta is s / epsilon with epsilon = tau / eta, up to a factor of each
row that the row's own normalisation removes. A cold start takes its first masses from exp(s / epsilon)
itself (u = 1): the order of SwAV and of POT, whose iterates these then are, one by one.

A plain exp(s / epsilon) leaves float32 for epsilon below 0.01, so a block of iterations runs one of two ways.
The fast one absorbs log v into a kernel once and then needs two matrix-vector products an iteration; it is
valid while log v stays near what was absorbed, which the reduced masses tell every rank alike. If not, the
block is repeated the careful way: first iteration in the log domain, then a fresh kernel for each.
Exponents are in base 2 and clamped above the denormal range: on a CPU, exponentials that underflow cost
many times more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from swamp_dist.distributed import World, max_over_ranks, sum_over_ranks

_LOG2_E = 1 / math.log(2)


@dataclass(frozen=True)
class SinkhornSolution:
    """Column potentials of a balanced assignment, and how they were found."""

    log_v: Tensor
    """(M, K), natural logarithm, mean 0; `assign` makes targets of them for any row. nan, on all ranks,
    where a score of any rank is not finite; never otherwise."""
    marginal_error: Tensor
    """0-d: mean over k of |m_k * K / N - 1|, the largest of the M problems, of the plan that entered the
    last iteration. The error never grows, so it bounds that of the plan returned. nan after a cold start
    of one iteration, which measures no plan."""
    iterations: int
    repeats: int
    """Iterations that had to be done again the careful way, beyond `iterations`."""
    collectives: int
    """All-reduces this rank issued: one an iteration, and one more for the first of a cold start, of a warm
    start at epsilon below 0.01 and of every repeated block."""


def assign(scores: Tensor, log_v: Tensor, epsilon: float) -> Tensor:
    """Targets q (M, n, K) of rows with `scores` (M, n, K) under potentials (M, K); rows sum to 1."""
    return torch.softmax(scores / epsilon + log_v[:, None, :], dim=-1)


def solve(
    scores: Tensor,
    total_rows: int,
    epsilon: float,
    *,
    world: World | None = None,
    log_v: Tensor | None = None,
    iterations: int | None = None,
    max_iterations: int = 50,
    tolerance: float = 0.01,
    check_every: int = 5,
    work: Tensor | None = None,
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
        work: memory like `scores` for the kernel, overwritten; a caller that solves every step keeps it.
    """
    problem = _Problem(scores, total_rows, epsilon, world, work)
    log2_v = (
        scores.new_zeros(scores.shape[0], scores.shape[2])
        if log_v is None
        else log_v.to(scores.dtype) * _LOG2_E
    )
    limit = iterations or max_iterations
    done = repeats = collectives = 0
    # After these starts log v still moves too far for one kernel. Stateless, so that a resumed run does the same.
    careful = epsilon < 0.01 and (log_v is not None or min(check_every, limit) > 3)
    while True:
        steps = min(check_every, limit - done)
        block = _run_block(problem, log2_v, steps, cold=log_v is None and done == 0, careful=careful)
        error, drift = block.figures.tolist()  # the only host read
        collectives += block.collectives
        if drift > problem.reach and not careful:
            careful, repeats = True, repeats + steps
            continue
        log2_v, done = block.log2_v, done + steps
        stop = not math.isfinite(drift) or (iterations is None and error < tolerance)
        if done >= limit or stop:
            break
        careful = drift > problem.reach / 2  # potentials tend to move less and less
    log_v = (log2_v - log2_v.mean(dim=1, keepdim=True)) / _LOG2_E
    sent = 0 if problem.world is None else collectives
    return SinkhornSolution(log_v, block.figures[0], done, repeats, sent)


def cheaper_solve(
    rows: int, prototypes: int, embedding_dim: int, iterations: int, world_size: int, on_gpu: bool
) -> Literal["split", "whole"]:
    """How to solve, by counted cost; both give the same targets.

    Splitting saves (1 - 1/W) of the score product and of one pass over the scores an iteration, and costs
    a small all-reduce an iteration. The rates are orders of magnitude, which is enough: near the crossing
    either will do.
    """
    flops, bandwidth, hop = (3e13, 2e12, 1.5e-5) if on_gpu else (3e10, 1e10, 5e-5)
    product = 4 * rows * prototypes * embedding_dim / flops
    passes = 8 * rows * prototypes * iterations / bandwidth
    saved = (product + passes) * (1 - 1 / world_size)
    talk = (iterations + 1) * hop * math.ceil(math.log2(world_size))
    return "split" if saved > talk else "whole"


@dataclass(frozen=True)
class _Block:
    log2_v: Tensor
    figures: Tensor
    """(2,): marginal error before the last iteration, and the farthest that log2 v went from what was
    absorbed first (inf where something is not finite). The same on all ranks."""
    collectives: int


class _Problem:
    """The rows of this rank in base 2, and the kernel that is made of them."""

    def __init__(
        self, scores: Tensor, total_rows: int, epsilon: float, world: World | None, work: Tensor | None
    ) -> None:
        self.scores = scores
        self.kernel = torch.empty_like(scores) if work is None else work
        self.scale = _LOG2_E / epsilon
        self.log2_share = math.log2(total_rows / scores.shape[2])
        self.world = world if world is not None and world.size > 1 else None
        tiny = -math.log2(torch.finfo(scores.dtype).tiny)
        self.lowest = -0.8 * tiny
        """Exponents are clamped here, 2^-100 in float32: products with them must not be denormal."""
        self.reach = 0.18 * tiny
        """Farthest that log2 v may go from what was absorbed, 22 in float32. A row and a column are then
        scaled by at most 2^22 each and a column has at least 2^-22 of its share, so clamped entries make
        up less than K * 2^-34 of any mass."""

    def exponentiate(self) -> Tensor:
        """The kernel of the exponents in its memory, none above 0."""
        return self.kernel.clamp_min_(self.lowest).exp2_()

    def sum(self, masses: Tensor) -> Tensor:
        """Sum over all rows, of the sums over mine."""
        return masses if self.world is None else sum_over_ranks(masses, self.world)

    def max(self, maxima: Tensor) -> Tensor:
        """Maximum over all rows, of the maxima over mine."""
        return maxima if self.world is None else max_over_ranks(maxima, self.world)


def _run_block(problem: _Problem, log2_v: Tensor, steps: int, *, cold: bool, careful: bool) -> _Block:
    """`steps` iterations from potentials (M, K); the first of them under u = 1 where `cold`."""
    absorbed = origin = None
    drift = problem.scores.new_zeros(())
    for step in range(steps):
        if step == 0 and cold:
            log2_masses = _cold_masses(problem)
        elif step == 0 and careful:
            log2_masses = _log_domain_masses(problem, log2_v)
        else:
            if absorbed is None or careful:
                absorbed = log2_v
                origin = absorbed if origin is None else origin
                _absorb(problem, log2_v)
            log2_masses = _kernel_masses(problem, log2_v - absorbed)
        move = problem.log2_share - log2_masses
        log2_v = log2_v + move
        if origin is not None:
            drift = torch.maximum(drift, (log2_v - origin).abs().amax())
    error = ((-move).exp2_() - 1).abs().mean(dim=1).amax()
    if cold and steps == 1:
        error = torch.full_like(error, torch.nan)
    drift = torch.where(log2_v.isfinite().all(), drift, torch.inf)
    return _Block(log2_v, torch.stack((error, drift)), steps + (cold or careful))


def _absorb(problem: _Problem, log2_v: Tensor) -> Tensor:
    """Set the kernel to 2^(s_ik / epsilon + log2 v_k - top_i), at most 1; the row maxima top (M, n, 1)."""
    torch.add(log2_v[:, None, :], problem.scores, alpha=problem.scale, out=problem.kernel)
    top = problem.kernel.amax(dim=2, keepdim=True)
    problem.kernel.sub_(top)
    problem.exponentiate()
    return top


def _kernel_masses(problem: _Problem, log2_w: Tensor) -> Tensor:
    """log2 of the column masses (M, K) at potentials 2^log2_w times the absorbed ones.

    With G the kernel: m_k = w_k sum_i G_ik / (G w)_i. A matrix-vector product of each problem in turn: torch's
    batched one is many times slower on a CPU.
    """
    w = log2_w.exp2()
    sums = torch.empty_like(w)
    for kernel, weights, out in zip(problem.kernel, w, sums, strict=True):
        torch.mv(kernel.t(), torch.mv(kernel, weights).reciprocal_(), out=out)
    return problem.sum(sums).log2_() + log2_w


def _log_domain_masses(problem: _Problem, log2_v: Tensor) -> Tensor:
    """log2 of the column masses (M, K) at any potentials."""
    top = _absorb(problem, log2_v)
    log2_row_sums = problem.kernel.sum(dim=2, keepdim=True).log2_() + top
    torch.add(log2_v[:, None, :], problem.scores, alpha=problem.scale, out=problem.kernel)
    problem.kernel.sub_(log2_row_sums)
    top = problem.max(_column_maxima(problem.kernel))
    problem.kernel.sub_(top[:, None, :])
    return problem.sum(problem.exponentiate().sum(dim=1)).log2_() + top


def _cold_masses(problem: _Problem) -> Tensor:
    """log2 of the column sums (M, K) of exp(s / epsilon): the masses under u = v = 1."""
    top = problem.max(_column_maxima(problem.scores)) * problem.scale
    torch.add(-top[:, None, :], problem.scores, alpha=problem.scale, out=problem.kernel)
    return problem.sum(problem.exponentiate().sum(dim=1)).log2_() + top


def _column_maxima(rows: Tensor) -> Tensor:
    """(M, K) maxima over the rows here; -inf where there are none."""
    return rows.amax(dim=1) if rows.shape[1] else rows.new_full((len(rows), rows.shape[2]), -torch.inf)
