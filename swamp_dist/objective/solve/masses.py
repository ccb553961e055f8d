"""Column masses of a Sinkhorn iteration from the scores of this rank: the passes over rows times prototypes.

Every pass takes the rows in blocks that stay in a core's cache, and does all that an iteration needs of a
block before it goes on: one read of the kernel per iteration, r = 1 / (G w) and masses += r G. Where the
scores are not kept, `StreamedScores` makes them anew for every pass. Exponents are in base 2 and, unless
their range is known, clamped above the denormal range: on a CPU, exponentials that underflow cost many times
more.

A GPU makes the float32 kernel in registers and keeps none (`masses_triton`, chosen by `is_fused`); its passes
in the log domain, a few of a solve, have memory for some rows at a time. On a CPU the float32 kernel may be
made and read by compiled code (`masses_numba`, where the caller asks for it); its passes in the log domain
are those here.

Rows may have weights (`RowWeights`): a pass sums w_i q_ik. Without weights it is the plain sum, bit by bit.

Shape letters: M problems solved together (the two modalities), n rows here, m of them in a block, K
prototypes.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from swamp_dist.distributed import World, max_over_ranks, sum_over_ranks
from swamp_dist.objective.memory import kernel_rows
from swamp_dist.objective.solve.scores import RowWeights, StreamedScores

LOG2_E = 1 / math.log(2)
_CACHED_ELEMENTS = 2**17
"""Scores of a block on a CPU: with their kernel 1 MiB of float32, the second-level cache of a core."""


class RowBlock(NamedTuple):
    """Some rows of one problem, small enough for the cache."""

    side: int
    """Which of the M problems."""
    scores: Tensor
    """(m, K)"""
    kernel: Tensor
    """(m, K), memory for what is made of them."""
    weights: Tensor | None = None
    """(m,); None where every row counts."""

    def column_sums(self, factors: Tensor | None = None) -> Tensor:
        """(K,) sums of the kernel over the rows that count, each times its factor (m,) if there are any."""
        if self.weights is not None:
            factors = self.weights if factors is None else factors * self.weights
        return self.kernel.sum(dim=0) if factors is None else torch.mv(self.kernel.t(), factors)


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
        weights: RowWeights | None = None,
        literal: float | None = None,
        *,
        is_compiled: bool = False,
    ) -> None:
        self.scores = scores
        self.literal = literal
        """tau, where the first masses are those of the cost -log softmax(s / tau)."""
        self.weights = weights
        like = scores.memory if isinstance(scores, StreamedScores) else scores
        self.is_fused = is_fused(like)
        self.is_compiled = is_compiled and like.device.type == "cpu" and like.dtype == torch.float32
        """Whether the kernel is made and read by `masses_numba`."""
        self.kernel = new_kernel(like) if work is None else work
        self.scale = LOG2_E / epsilon
        self._log2_share = math.log2(total_rows / scores.shape[2])
        self.world = world if world is not None and world.size > 1 else None
        tiny = -math.log2(torch.finfo(like.dtype).tiny)
        self.lowest = -0.8 * tiny
        """Exponents are clamped here, 2^-100 in float32: products with them must not be denormal."""
        # Three such factors on a clamped entry leave it 0.8 - 3 * 0.18 = 0.26 of the exponent range: 2^-33 in
        # float32, below the rounding of a mass (2^-24) with room for K.
        self.reach = 0.18 * tiny
        """Farthest that log2 v may go from what was absorbed, 22 in float32. A row and a column are then
        scaled by at most 2^22 each and a column has at least 2^-22 of its share, so clamped entries make
        up less than K * 2^-34 of any mass."""
        self.is_direct = bound is not None and bound * self.scale <= 0.25 * tiny
        """The kernel is 2^(s / epsilon) as it is, made once per solve: no score takes it out of 2^-31..2^31
        in float32, and within reach no sum of it leaves 2^-64..2^64 times n or K."""
        self._is_made = False

    @property
    def keeps_kernel(self) -> bool:
        """Whether every row has memory of its own for its kernel."""
        return not (self.is_fused or isinstance(self.scores, StreamedScores))

    @property
    def log2_share(self) -> float | Tensor:
        """log2 (N / K), N the rows that count: 0-d on the device where they have weights, made anew, since a
        graph reads weights from where they lie."""
        if self.weights is None:
            return self._log2_share
        return (self.weights.total / self.scores.shape[2]).log2_().to(self.kernel.dtype)

    def vectors(self, value: float) -> Tensor:
        """(M, K) of `value`."""
        return self.kernel.new_full((self.kernel.shape[0], self.kernel.shape[2]), value)

    def rows(self) -> Iterator[RowBlock]:
        """All rows here in turn; their kernel stays where it is if it is kept."""
        size = max(1, self.kernel.shape[1])
        for kept, weights in self.score_blocks():
            for first in range(0, kept.shape[1], size):
                scores = kept[:, first : first + size]
                part = None if weights is None else weights[first : first + size]
                yield from row_blocks(scores, self.kernel[:, : scores.shape[1]], part)

    def score_blocks(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """All scores here in turn: (M, m, K) with m at most n, and the weights (m,) of the rows, if any."""
        first, weights = 0, None if self.weights is None else self.weights.mine
        blocks = self.scores.blocks() if isinstance(self.scores, StreamedScores) else (self.scores,)
        for scores in blocks:
            past = first + scores.shape[1]
            yield scores, None if weights is None else weights[first:past]
            first = past

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

    def compiled_sums(
        self,
        w: Tensor | None,
        absorbed: Tensor | None,
        factors_of: Callable[[Tensor, Tensor | None], Tensor | None] = lambda scores, weights: weights,
        *,
        renew: bool = False,
    ) -> Tensor:
        """Sums (M, K) over the rows here of f_i G_ik / (G w)_i, or of f_i G_ik where w is None, by
        `masses_numba`. The kernel is made where `kernels` and `direct_kernels` would make it.

        Args:
            factors_of: the factors (m,) or (M, m) of a block of scores (M, m, K), its rows of weights (m,).
        """
        passes, sums = compiled_passes(), self.vectors(0.0)
        makes = (renew if absorbed is not None else not self._is_made) or not self.keeps_kernel
        making = passes.Making(self.scale, self.lowest, absorbed) if makes else None
        for scores, weights in self.score_blocks():
            kernel = self.kernel.view(-1)[: scores.numel()].view(scores.shape)
            sums += passes.column_sums(scores, kernel, w, factors_of(scores, weights), making)
        self._is_made = absorbed is None
        return sums

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


def row_blocks(scores: Tensor, kernel: Tensor, weights: Tensor | None = None) -> Iterator[RowBlock]:
    """(M, n, K) in pieces: cache-sized on a CPU, one problem at a time on a GPU, where launches cost.

    `weights` (n,) belong to the rows of every problem.
    """
    size = max(1, _CACHED_ELEMENTS // scores.shape[2]) if scores.device.type == "cpu" else scores.shape[1]
    if scores.shape[1] == 0:
        return
    for side, (rows, out) in enumerate(zip(scores, kernel, strict=True)):
        parts = itertools.repeat(None) if weights is None else torch.split(weights, size)
        for of_rows, of_out, part in zip(rows.split(size), out.split(size), parts, strict=False):
            yield RowBlock(side, of_rows, of_out, part)


def kernel_masses(problem: Problem, absorbed: Tensor | None, log2_w: Tensor, *, renew: bool) -> Tensor:
    """log2 of the column masses (M, K) at potentials 2^log2_w times the absorbed ones (None: direct kernel).

    With G the kernel: m_k = w_k sum_i G_ik / (G w)_i, which no factor of w changes. So w is centred. A
    matrix-vector product of each problem in turn: torch's batched one is many times slower on a CPU. The
    weight of a row is a factor of its normaliser.
    """
    if problem.is_compiled:
        log2_w, w = compiled_passes().centre(log2_w)
        return problem.sum(problem.compiled_sums(w, absorbed, renew=renew)).log2_() + log2_w
    log2_w = log2_w - _middle(log2_w)
    w, sums = log2_w.exp2(), problem.vectors(0.0)
    if problem.is_fused:
        fused = fused_passes()
        for scores, weights in problem.score_blocks():
            sums += fused.column_sums(scores, problem.scale, problem.lowest, absorbed, w, weights)
        return problem.sum(sums).log2_() + log2_w
    blocks = problem.direct_kernels() if absorbed is None else problem.kernels(absorbed, renew=renew)
    for side, _, kernel, weights in blocks:
        factors = torch.mv(kernel, w[side]).reciprocal_()
        sums[side].addmv_(kernel.t(), factors if weights is None else factors.mul_(weights))
    return problem.sum(sums).log2_() + log2_w


def log_domain_masses(problem: Problem, log2_v: Tensor) -> Tensor:
    """log2 of the column masses (M, K) at any potentials."""

    def log2_plan(block: RowBlock) -> None:
        top = problem.absorb(block, log2_v[block.side])
        log2_row_sums = block.kernel.sum(dim=1, keepdim=True).log2_() + top
        torch.add(log2_v[block.side], block.scores, alpha=problem.scale, out=block.kernel)
        if block.weights is not None:  # a row that does not count must not set the maximum of a column
            log2_row_sums -= block.weights.log2()[:, None]
        block.kernel.sub_(log2_row_sums)

    top = problem.vectors(-torch.inf)
    for block in problem.rows():
        log2_plan(block)
        torch.maximum(top[block.side], block.kernel.amax(dim=0), out=top[block.side])
    top, sums = problem.max(top), problem.vectors(0.0)
    for block in problem.rows():
        if not problem.keeps_kernel:
            log2_plan(block)
        problem.exponentiate(block.kernel.sub_(top[block.side]))
        sums[block.side] += block.column_sums()
    return problem.sum(sums).log2_() + top


def fused_passes() -> ModuleType:
    """Imported where a GPU asks: a CPU has no compiler for it."""
    return importlib.import_module("swamp_dist.objective.solve.masses_triton")


def compiled_passes() -> ModuleType:
    """Imported where it is asked for: numba is an extra."""
    return importlib.import_module("swamp_dist.objective.solve.masses_numba")


def half_range(log2_w: Tensor) -> Tensor:
    """How far the farthest of (..., K) potentials lies from their middle, in any problem; 0-d."""
    return (log2_w.amax(dim=-1) - log2_w.amin(dim=-1)).amax() / 2


def _middle(log2_w: Tensor) -> Tensor:
    return (log2_w.amax(dim=1, keepdim=True) + log2_w.amin(dim=1, keepdim=True)) / 2
