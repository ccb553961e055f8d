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
Where not all scores fit into memory, `StreamedScores` makes them anew a block of rows at a time for every
pass; the iterates are the same.
Exponents are in base 2 and clamped above the denormal range: on a CPU, exponentials that underflow cost
many times more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from swamp_dist.distributed import World, max_over_ranks, sum_over_ranks

_LOG2_E = 1 / math.log(2)


@dataclass(frozen=True)
class StreamedScores:
    """Scores (M, n, K) that are never held at once: products of rows and prototypes, block by block."""

    sides: Sequence[Tensor]
    """M tensors (n, D)."""
    prototypes: Tensor
    """(K, D)"""
    memory: Tensor
    """(M, m, K), overwritten: m rows are a block."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, n, K) of all scores."""
        return len(self.sides), len(self.sides[0]), len(self.prototypes)

    def blocks(self) -> Iterator[Tensor]:
        """Scores (M, at most m, K) of the rows in turn, each valid until the next."""
        _, num_rows, _ = self.shape
        for first in range(0, num_rows, self.memory.shape[1]):
            block = self.memory[:, : num_rows - first]
            for side, out in zip(self.sides, block, strict=True):
                torch.mm(side[first : first + block.shape[1]], self.prototypes.t(), out=out)
            yield block


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
    start at epsilon below 0.01, of every repeated block and of one that follows a block of large moves."""


def assign(scores: Tensor, log_v: Tensor, epsilon: float) -> Tensor:
    """Targets q (M, n, K) of rows with `scores` (M, n, K) under potentials (M, K); rows sum to 1."""
    return torch.softmax(scores / epsilon + log_v[:, None, :], dim=-1)


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
        work: memory for the kernel, like `scores` or like the memory of streamed ones, overwritten; a caller
            that solves every step keeps it.
    """
    problem = _Problem(scores, total_rows, epsilon, world, work)
    log2_v = problem.vectors(0.0) if log_v is None else log_v.to(problem.kernel.dtype) * _LOG2_E
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


@dataclass(frozen=True)
class _Block:
    log2_v: Tensor
    figures: Tensor
    """(2,): marginal error before the last iteration, and the farthest that log2 v went from what was
    absorbed first (inf where something is not finite). The same on all ranks."""
    collectives: int


class _Problem:
    """The rows of this rank in base 2, and memory for the kernel that is made of them."""

    def __init__(
        self,
        scores: Tensor | StreamedScores,
        total_rows: int,
        epsilon: float,
        world: World | None,
        work: Tensor | None,
    ) -> None:
        self.scores = scores
        self.is_streamed = isinstance(scores, StreamedScores)
        like = scores.memory if isinstance(scores, StreamedScores) else scores
        self.kernel = torch.empty_like(like) if work is None else work
        self.scale = _LOG2_E / epsilon
        self.log2_share = math.log2(total_rows / scores.shape[2])
        self.world = world if world is not None and world.size > 1 else None
        tiny = -math.log2(torch.finfo(like.dtype).tiny)
        self.lowest = -0.8 * tiny
        """Exponents are clamped here, 2^-100 in float32: products with them must not be denormal."""
        self.reach = 0.18 * tiny
        """Farthest that log2 v may go from what was absorbed, 22 in float32. A row and a column are then
        scaled by at most 2^22 each and a column has at least 2^-22 of its share, so clamped entries make
        up less than K * 2^-34 of any mass."""

    def vectors(self, value: float) -> Tensor:
        """(M, K) of `value`."""
        return self.kernel.new_full((self.kernel.shape[0], self.kernel.shape[2]), value)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Scores (M, m, K) of all rows here in turn, each with memory for its kernel: at once if they are kept."""
        if isinstance(self.scores, StreamedScores):
            for scores in self.scores.blocks():
                yield scores, self.kernel[:, : scores.shape[1]]
        else:
            yield self.scores, self.kernel

    def kernels(self, absorbed: Tensor, is_made: bool) -> Iterator[Tensor]:
        """Kernel (M, m, K) of all rows in turn with `absorbed` potentials; `is_made`: memory may hold it."""
        if is_made and not self.is_streamed:
            yield self.kernel
            return
        for scores, kernel in self.blocks():
            self.absorb(scores, absorbed, kernel)
            yield kernel

    def absorb(self, scores: Tensor, log2_v: Tensor, out: Tensor) -> Tensor:
        """Set `out` to 2^(s_ik / epsilon + log2 v_k - top_i), at most 1; the row maxima top (M, m, 1)."""
        torch.add(log2_v[:, None, :], scores, alpha=self.scale, out=out)
        top = out.amax(dim=2, keepdim=True)
        self.exponentiate(out.sub_(top))
        return top

    def exponentiate(self, exponents: Tensor) -> Tensor:
        """2^exponents in place, none above 0."""
        return exponents.clamp_min_(self.lowest).exp2_()

    def sum(self, masses: Tensor) -> Tensor:
        """Sum over all rows, of the sums over mine."""
        return masses if self.world is None else sum_over_ranks(masses, self.world)

    def max(self, maxima: Tensor) -> Tensor:
        """Maximum over all rows, of the maxima over mine."""
        return maxima if self.world is None else max_over_ranks(maxima, self.world)


def _run_block(problem: _Problem, log2_v: Tensor, steps: int, *, cold: bool, careful: bool) -> _Block:
    """`steps` iterations from potentials (M, K); the first of them under u = 1 where `cold`."""
    absorbed = origin = None
    drift = log2_v.new_zeros(())
    for step in range(steps):
        if step == 0 and cold:
            log2_masses = _cold_masses(problem)
        elif step == 0 and careful:
            log2_masses = _log_domain_masses(problem, log2_v)
        else:
            is_made = absorbed is not None and not careful
            absorbed = absorbed if absorbed is not None and is_made else log2_v
            origin = absorbed if origin is None else origin
            log2_masses = _kernel_masses(problem, absorbed, log2_v - absorbed, is_made)
        move = problem.log2_share - log2_masses
        log2_v = log2_v + move
        if origin is not None:
            drift = torch.maximum(drift, (log2_v - origin).abs().amax())
    error = ((-move).exp2_() - 1).abs().mean(dim=1).amax()
    if cold and steps == 1:
        error = torch.full_like(error, torch.nan)
    drift = torch.where(log2_v.isfinite().all(), drift, torch.inf)
    return _Block(log2_v, torch.stack((error, drift)), steps + (cold or careful))


def _kernel_masses(problem: _Problem, absorbed: Tensor, log2_w: Tensor, is_made: bool) -> Tensor:
    """log2 of the column masses (M, K) at potentials 2^log2_w times the absorbed ones.

    With G the kernel: m_k = w_k sum_i G_ik / (G w)_i. A matrix-vector product of each problem in turn: torch's
    batched one is many times slower on a CPU.
    """
    w, sums = log2_w.exp2(), problem.vectors(0.0)
    for kernels in problem.kernels(absorbed, is_made):
        for kernel, weights, out in zip(kernels, w, sums, strict=True):
            out += torch.mv(kernel.t(), torch.mv(kernel, weights).reciprocal_())
    return problem.sum(sums).log2_() + log2_w


def _log_domain_masses(problem: _Problem, log2_v: Tensor) -> Tensor:
    """log2 of the column masses (M, K) at any potentials."""

    def log2_plan(scores: Tensor, out: Tensor) -> None:
        top = problem.absorb(scores, log2_v, out)
        log2_row_sums = out.sum(dim=2, keepdim=True).log2_() + top
        torch.add(log2_v[:, None, :], scores, alpha=problem.scale, out=out)
        out.sub_(log2_row_sums)

    top = problem.vectors(-torch.inf)
    for scores, kernel in problem.blocks():
        log2_plan(scores, kernel)
        torch.maximum(top, _column_maxima(kernel), out=top)
    top, sums = problem.max(top), problem.vectors(0.0)
    for scores, kernel in problem.blocks():
        if problem.is_streamed:
            log2_plan(scores, kernel)
        sums += problem.exponentiate(kernel.sub_(top[:, None, :])).sum(dim=1)
    return problem.sum(sums).log2_() + top


def _cold_masses(problem: _Problem) -> Tensor:
    """log2 of the column sums (M, K) of exp(s / epsilon): the masses under u = v = 1."""
    top = problem.vectors(-torch.inf)
    for scores, _ in problem.blocks():
        torch.maximum(top, _column_maxima(scores), out=top)
    top, sums = problem.max(top) * problem.scale, problem.vectors(0.0)
    for scores, kernel in problem.blocks():
        torch.add(-top[:, None, :], scores, alpha=problem.scale, out=kernel)
        sums += problem.exponentiate(kernel).sum(dim=1)
    return problem.sum(sums).log2_() + top


def _column_maxima(rows: Tensor) -> Tensor:
    """(M, K) maxima over the rows here; -inf where there are none."""
    return rows.amax(dim=1) if rows.shape[1] else rows.new_full((len(rows), rows.shape[2]), -torch.inf)
