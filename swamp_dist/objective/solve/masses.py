"""Column masses of a Sinkhorn iteration from the scores of this rank: the passes over rows times prototypes.

Every pass takes the rows in blocks that stay in a core's cache, and does all that an iteration needs of a
block before it goes on: one read of the kernel an iteration, r = 1 / (G w) and masses += r G. Where the scores
are not kept, `StreamedScores` makes them anew for every pass. Exponents are in base 2 and, unless their range
is known, clamped above the denormal range: on a CPU, exponentials that underflow cost many times more.

A GPU makes the float32 kernel in registers and keeps none (`masses_triton`, chosen by `is_fused`); its passes in the
log domain, a few of a solve, have memory for some rows at a time.

Shape letters: M problems solved together (the two modalities), n rows here, m of them in a block, K prototypes.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from swamp_dist.distributed import World, max_over_ranks, sum_over_ranks
from swamp_dist.objective.memory import kernel_rows

LOG2_E = 1 / math.log(2)
_CACHED_ELEMENTS = 2**17
"""Scores of a block on a CPU: with their kernel 1 MiB of float32, the second-level cache of a core."""


ScorePrecision = Literal["float32", "bfloat16"]
"""What the operands of the score product are rounded to. Sums and scores have the prototypes' own precision."""


def operand(rows: Tensor, precision: ScorePrecision) -> Tensor:
    """`rows` as the score product takes them."""
    return rows.bfloat16() if precision == "bfloat16" else rows


def score_product(rows: Tensor, prototypes: Tensor, out: Tensor) -> None:
    """Scores (n, K) of rows (n, D) with prototypes (K, D) in `out`, float32 or wider.

    Prototypes in bfloat16 (`operand`) ask for a product of bfloat16 operands that is summed and written in float32.
    Rounding to 8 bits changes an entry by at most 2^-8 of it, hence a cosine by at most 2^-7 (Cauchy-Schwarz,
    both operands) and an exponent of the solve by 2^-7 / epsilon: 0.16 at 0.05. Rounding errors of D entries
    mostly cancel: a typical score of D = 4,096 is off by 4e-5. Only a GPU has an instruction for it; a CPU
    multiplies the rounded operands in float32, which is as exact.
    """
    if prototypes.dtype != torch.bfloat16:
        torch.mm(rows, prototypes.t(), out=out)
    elif rows.is_cuda and out.dtype == torch.float32:
        torch.mm(rows.bfloat16(), prototypes.t(), out_dtype=torch.float32, out=out)
    else:
        torch.mm(rows.bfloat16().to(out.dtype), prototypes.t().to(out.dtype), out=out)


@dataclass(frozen=True)
class StreamedScores:
    """Scores (M, n, K) that are never held at once: products of rows and prototypes, block by block."""

    sides: Sequence[Tensor]
    """M tensors (n, D), in the prototypes' precision or as the product takes them."""
    prototypes: Tensor
    """(K, D)"""
    memory: Tensor
    """(M, m, K), overwritten: m rows are a block."""
    precision: ScorePrecision = "float32"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, n, K) of all scores."""
        return len(self.sides), len(self.sides[0]), len(self.prototypes)

    def blocks(self) -> Iterator[Tensor]:
        """Scores (M, at most m, K) of the rows in turn, each valid until the next."""
        _, num_rows, _ = self.shape
        prototypes = operand(self.prototypes, self.precision)
        for first in range(0, num_rows, self.memory.shape[1]):
            block = self.memory[:, : num_rows - first]
            for side, out in zip(self.sides, block, strict=True):
                score_product(side[first : first + block.shape[1]], prototypes, out)
            yield block


class RowBlock(NamedTuple):
    """Some rows of one problem, small enough for the cache."""

    side: int
    """Which of the M problems."""
    scores: Tensor
    """(m, K)"""
    kernel: Tensor
    """(m, K), memory for what is made of them."""


class Problem:
    """The rows of this rank in base 2, and memory for the kernel that is made of them."""

    def __init__(
        self,
        scores: Tensor | StreamedScores,
        total_rows: int,
        epsilon: float,
        world: World | None,
        work: Tensor | None,
        bound: float | None,
    ) -> None:
        self.scores = scores
        like = scores.memory if isinstance(scores, StreamedScores) else scores
        self.is_fused = is_fused(like)
        self.kernel = new_kernel(like) if work is None else work
        self.scale = LOG2_E / epsilon
        self.log2_share = math.log2(total_rows / scores.shape[2])
        self.world = world if world is not None and world.size > 1 else None
        tiny = -math.log2(torch.finfo(like.dtype).tiny)
        self.lowest = -0.8 * tiny
        """Exponents are clamped here, 2^-100 in float32: products with them must not be denormal."""
        self.reach = 0.18 * tiny
        """Farthest that log2 v may go from what was absorbed, 22 in float32. A row and a column are then
        scaled by at most 2^22 each and a column has at least 2^-22 of its share, so clamped entries make
        up less than K * 2^-34 of any mass."""
        self.is_direct = bound is not None and bound * self.scale <= 0.25 * tiny
        """The kernel is 2^(s / epsilon) as it is, made once a solve: no score takes it out of 2^-31..2^31 in
        float32, and within reach no sum of it leaves 2^-64..2^64 times n or K."""
        self._is_made = False

    @property
    def keeps_kernel(self) -> bool:
        """Whether every row has memory of its own for its kernel."""
        return not (self.is_fused or isinstance(self.scores, StreamedScores))

    def vectors(self, value: float) -> Tensor:
        """(M, K) of `value`."""
        return self.kernel.new_full((self.kernel.shape[0], self.kernel.shape[2]), value)

    def rows(self) -> Iterator[RowBlock]:
        """All rows here in turn; their kernel stays where it is if it is kept."""
        for kept in self.score_blocks():
            for scores in torch.split(kept, max(1, self.kernel.shape[1]), dim=1):
                yield from row_blocks(scores, self.kernel[:, : scores.shape[1]])

    def score_blocks(self) -> Iterator[Tensor]:
        """All scores here in turn: (M, at most n, K)."""
        if isinstance(self.scores, StreamedScores):
            yield from self.scores.blocks()
        else:
            yield self.scores

    def kernels(self, absorbed: Tensor | None, *, renew: bool) -> Iterator[RowBlock]:
        """All rows with their kernel at `absorbed` potentials (M, K), or the direct one where they are None.

        It is made in the same pass if `renew` says that the one in memory is another, or if nothing is kept.
        """
        make = renew or not self.keeps_kernel
        for block in self.rows():
            if make and absorbed is None:
                torch.mul(block.scores, self.scale, out=block.kernel).exp2_()
            elif make and absorbed is not None:
                self.absorb(block, absorbed[block.side])
            yield block

    def direct_kernels(self) -> Iterator[RowBlock]:
        """All rows with their direct kernel, made by the first pass of a solve."""
        yield from self.kernels(None, renew=not self._is_made)
        self._is_made = True

    def absorb(self, block: RowBlock, log2_v: Tensor) -> Tensor:
        """Set the kernel to 2^(s_ik / epsilon + log2 v_k - top_i), at most 1; the row maxima top (m, 1)."""
        torch.add(log2_v, block.scores, alpha=self.scale, out=block.kernel)
        top = block.kernel.amax(dim=1, keepdim=True)
        self.exponentiate(block.kernel.sub_(top))
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


def is_fused(scores: Tensor) -> bool:
    """Whether the kernel of such scores is made in registers. Triton comes with torch's CUDA builds."""
    return scores.is_cuda and scores.dtype == torch.float32


def new_kernel(scores: Tensor) -> Tensor:
    """Memory for the kernel of scores (M, n, K): of all rows, or (M, m, K) where it is fused."""
    rows = kernel_rows(scores.shape[1], scores.shape[2], is_fused(scores))
    return torch.empty_like(scores[:, :rows])


def row_blocks(scores: Tensor, kernel: Tensor) -> Iterator[RowBlock]:
    """(M, n, K) in pieces: cache-sized on a CPU, one problem at a time on a GPU, where launches cost."""
    size = max(1, _CACHED_ELEMENTS // scores.shape[2]) if scores.device.type == "cpu" else scores.shape[1]
    if scores.shape[1] == 0:
        return
    for side, (rows, out) in enumerate(zip(scores, kernel, strict=True)):
        for pair in zip(rows.split(size), out.split(size), strict=True):
            yield RowBlock(side, *pair)


def kernel_masses(problem: Problem, absorbed: Tensor | None, log2_w: Tensor, *, renew: bool) -> Tensor:
    """log2 of the column masses (M, K) at potentials 2^log2_w times the absorbed ones (None: direct kernel).

    With G the kernel: m_k = w_k sum_i G_ik / (G w)_i, which no factor of w changes. So w is centred. A
    matrix-vector product of each problem in turn: torch's batched one is many times slower on a CPU.
    """
    log2_w = log2_w - _middle(log2_w)
    w, sums = log2_w.exp2(), problem.vectors(0.0)
    if problem.is_fused:
        fused = _fused_passes()
        for scores in problem.score_blocks():
            sums += fused.column_sums(scores, problem.scale, problem.lowest, absorbed, w)
        return problem.sum(sums).log2_() + log2_w
    blocks = problem.direct_kernels() if absorbed is None else problem.kernels(absorbed, renew=renew)
    for side, _, kernel in blocks:
        sums[side].addmv_(kernel.t(), torch.mv(kernel, w[side]).reciprocal_())
    return problem.sum(sums).log2_() + log2_w


def log_domain_masses(problem: Problem, log2_v: Tensor) -> Tensor:
    """log2 of the column masses (M, K) at any potentials."""

    def log2_plan(block: RowBlock) -> None:
        top = problem.absorb(block, log2_v[block.side])
        log2_row_sums = block.kernel.sum(dim=1, keepdim=True).log2_() + top
        torch.add(log2_v[block.side], block.scores, alpha=problem.scale, out=block.kernel)
        block.kernel.sub_(log2_row_sums)

    top = problem.vectors(-torch.inf)
    for block in problem.rows():
        log2_plan(block)
        torch.maximum(top[block.side], block.kernel.amax(dim=0), out=top[block.side])
    top, sums = problem.max(top), problem.vectors(0.0)
    for block in problem.rows():
        if not problem.keeps_kernel:
            log2_plan(block)
        sums[block.side] += problem.exponentiate(block.kernel.sub_(top[block.side])).sum(dim=0)
    return problem.sum(sums).log2_() + top


def cold_masses(problem: Problem) -> Tensor:
    """log2 of the column sums (M, K) of exp(s / epsilon): the masses under u = v = 1."""
    top = problem.vectors(-torch.inf)
    for side, scores, _ in problem.rows():
        torch.maximum(top[side], scores.amax(dim=0), out=top[side])
    top, sums = problem.max(top) * problem.scale, problem.vectors(0.0)
    for side, scores, kernel in problem.rows():
        torch.add(-top[side], scores, alpha=problem.scale, out=kernel)
        sums[side] += problem.exponentiate(kernel).sum(dim=0)
    return problem.sum(sums).log2_() + top


def direct_cold_masses(problem: Problem) -> Tensor:
    """`cold_masses` of scores whose range is known: no maxima are asked for, and the kernel is kept."""
    sums = problem.vectors(0.0)
    if problem.is_fused:
        for scores in problem.score_blocks():
            sums += _fused_passes().plain_sums(scores, problem.scale)
        return problem.sum(sums).log2_()
    for side, _, kernel in problem.direct_kernels():
        sums[side] += kernel.sum(dim=0)
    return problem.sum(sums).log2_()


def _fused_passes() -> ModuleType:
    """Imported where a GPU asks: a CPU has no compiler for it."""
    return importlib.import_module("swamp_dist.objective.masses_triton")


def half_range(log2_w: Tensor) -> Tensor:
    """How far the farthest of (M, K) potentials lies from their middle, in any problem; 0-d."""
    return (log2_w.amax(dim=1) - log2_w.amin(dim=1)).amax() / 2


def _middle(log2_w: Tensor) -> Tensor:
    return (log2_w.amax(dim=1, keepdim=True) + log2_w.amin(dim=1, keepdim=True)) / 2
