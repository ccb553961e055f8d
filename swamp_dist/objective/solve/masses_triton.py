"""The pass of a Sinkhorn iteration over the scores as GPU kernels: one read of them, and no kernel matrix.

Imported on a GPU only; `masses` has the same pass in plain torch. Exponentials are made in registers:
G_ik = 2^(scale * s_ik + log2 v_k - top_i) with top_i the largest exponent of the row, or 2^(scale * s_ik)
where no potentials are absorbed. Wanted are the column sums of G_ik / (G w)_i.

Up to 2^13 prototypes a program holds a whole row and its own column sums in registers, and walks over rows:
every score is read once, and what is written is one vector of K a program. Beyond, one kernel measures rows
(n pairs of numbers) and a second sums columns: two reads, for any K. Either way sums of programs are added in
a fixed order, never by atomics, so that a resumed run has the same bits.

Four scores are loaded at once where K and the strides are multiples of four, as with the paper's K = 500;
Triton's own test asks for multiples of sixteen.

Rows may have weights: their sums are those of w_i G_ik. Kernels without them are compiled apart, and a row of
weight 0 is not read by the pass that reads once.

Shape letters: M problems solved together, n rows, K prototypes, P programs of a problem.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ONE_READ_PROTOTYPES = 2**13
"""Most prototypes of a row in registers: 32 scores and 32 sums for each of 256 threads. Twice as many do not
fit the registers of 512 threads."""
_SUMS, _ROWS_EACH = 2**21, 8
"""Sums that the programs of a problem write at most, unless 128 of them write more; the fewest rows of one,
so that what is written is at most an eighth of what is read."""
_PIECE, _COLUMNS, _ROWS = 4096, 256, 16
"""Of the kernels that read twice: the piece of a row, and the tile of columns and rows."""


def column_sums(
    scores: Tensor,
    scale: float,
    lowest: float,
    absorbed: Tensor | None,
    w: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """sum_i G_ik / (G w)_i of float32 scores (M, n, K): (M, K).

    Args:
        scores: contiguous along K; any n, 0 included.
        scale: what makes exponents in base 2 of scores.
        lowest: exponents are clamped here, relative to the largest of the row; not where `absorbed` is None.
        absorbed: log2 potentials (M, K) in the kernel; None for the direct kernel.
        w: potentials (M, K) beyond those absorbed, positive.
        weights: (n,) at least 0, factors of the rows in the sum; None for 1.
    """
    problems, rows, prototypes = scores.shape
    if rows == 0:
        return torch.zeros_like(w)
    potentials, w = (w if absorbed is None else absorbed).contiguous(), w.contiguous()
    if prototypes > ONE_READ_PROTOTYPES:
        factors = _row_factors(scores, scale, potentials, w, direct=absorbed is None)
        if weights is not None:
            factors[:, 1] *= weights
        return _weighted_columns(scores, scale, lowest, potentials, factors, direct=absorbed is None)
    width = triton.next_power_of_2(prototypes)
    programs = min(triton.cdiv(rows, _ROWS_EACH), max(128, _SUMS // width))
    partial = scores.new_empty(problems, programs, prototypes)
    _one_read[(programs, problems)](
        scores, potentials, w, w if weights is None else weights, partial,
        rows, prototypes, scale, lowest, *scores.stride()[:2],
        WIDTH=width, DIRECT=absorbed is None, WEIGHTED=weights is not None, BY_FOUR=_by_four(scores),
        num_warps=min(16, max(1, width // 1024)),
    )  # fmt: skip
    return partial.sum(dim=1)


def plain_sums(scores: Tensor, scale: float, weights: Tensor | None = None) -> Tensor:
    """sum_i w_i 2^(scale * s_ik) of float32 scores (M, n, K) and weights (n,) or (M, n), None for 1: (M, K),
    the first masses of a cold start in range."""
    problems, rows, prototypes = scores.shape
    unused = scores.new_zeros(problems, prototypes)
    if rows == 0:
        return unused
    factors = scores.new_ones(problems, 2, rows)
    if weights is not None:
        factors[:, 1] = weights
    return _weighted_columns(scores, scale, 0.0, unused, factors, direct=True)


def log2_row_sums(scores: Tensor, scale: float) -> Tensor:
    """log2 sum_k 2^(scale * s_ik) of float32 scores (M, n, K): (M, n), whatever their range."""
    problems, rows, prototypes = scores.shape
    if rows == 0:
        return scores.new_empty(problems, 0)
    nothing = scores.new_zeros(problems, prototypes)
    top, share = _row_factors(scores, scale, nothing, nothing + 1, direct=False).unbind(dim=1)
    return top - share.log2()


def _row_factors(scores: Tensor, scale: float, absorbed: Tensor, w: Tensor, *, direct: bool) -> Tensor:
    """(M, 2, n): top_i (of no meaning for the direct kernel) and 1 / (G w)_i of every row."""
    problems, rows, prototypes = scores.shape
    found = scores.new_empty(problems, 2, rows)
    _row_sums[(rows, problems)](
        scores, absorbed, w, found, rows, prototypes, scale, *scores.stride()[:2],
        WIDTH=_PIECE, DIRECT=direct, BY_FOUR=_by_four(scores), num_warps=4,
    )  # fmt: skip
    return found


def _weighted_columns(
    scores: Tensor, scale: float, lowest: float, absorbed: Tensor, factors: Tensor, *, direct: bool
) -> Tensor:
    """sum_i G_ik / (G w)_i: (M, K), from the `factors` of the rows."""
    problems, rows, prototypes = scores.shape
    tiles = triton.cdiv(prototypes, _COLUMNS)
    parts = min(triton.cdiv(rows, _ROWS * _ROWS_EACH), max(1, 2048 // tiles))
    partial = scores.new_empty(problems, parts, prototypes)
    _columns[(tiles, parts, problems)](
        scores, absorbed, factors, partial, rows, prototypes, scale, lowest, *scores.stride()[:2],
        WIDTH=_COLUMNS, HEIGHT=_ROWS, DIRECT=direct, BY_FOUR=_by_four(scores), num_warps=4,
    )  # fmt: skip
    return partial.sum(dim=1)


def _by_four(scores: Tensor) -> bool:
    """Whether K and the strides are multiples of four and not all of sixteen, which Triton finds itself."""
    sizes = scores.shape[2], scores.stride(0), scores.stride(1)
    is_aligned = scores.data_ptr() % 16 == 0
    return is_aligned and all(n % 4 == 0 for n in sizes) and any(n % 16 for n in sizes)


# A product by four tells the compiler what `tl.multiple_of` does not tell it of an argument.
# Kernels: pointers and numbers come untyped. `side` is int64, and so is every offset made with it.


@triton.jit  # type: ignore[untyped-decorator]
def _one_read(  # type: ignore[no-untyped-def]
    scores, potentials, w, weights, partial, rows, prototypes, scale, lowest, side_stride, row_stride,
    WIDTH: tl.constexpr, DIRECT: tl.constexpr, WEIGHTED: tl.constexpr, BY_FOUR: tl.constexpr,
):  # fmt: skip
    """Program (p, side): rows p, p + P, ... of one problem; its column sums in its own row of `partial`."""
    if BY_FOUR:
        prototypes = prototypes // 4 * 4
    program, programs, side = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < prototypes
    side_w = tl.load(w + side * prototypes + columns, mask=inside, other=0.0)
    absorbed = tl.load(potentials + side * prototypes + columns, mask=inside, other=0.0)
    sums = tl.zeros([WIDTH], dtype=tl.float32)
    for row in range(program, rows, programs):
        first = scores + side * side_stride + tl.cast(row, tl.int64) * row_stride
        if BY_FOUR:
            first = tl.multiple_of(first, 16)
        weight = tl.load(weights + row) if WEIGHTED else 1.0
        if weight != 0:  # skipped whole: a branch keeps fewer addresses than a mask of the loads
            exponents = tl.load(first + columns, mask=inside, other=0.0) * scale
            if not DIRECT:
                exponents = tl.where(inside, exponents + absorbed, float("-inf"))
                exponents -= tl.max(exponents, axis=0)
                # A comparison with nan is false: nan stays, and all ranks see it.
                exponents = tl.where(exponents < lowest, lowest, exponents)
            kernel = tl.exp2(exponents)
            share = kernel / tl.sum(kernel * side_w, axis=0)
            sums += share * weight if WEIGHTED else share
    out = partial + (side * programs + program) * prototypes
    tl.store(out + columns, sums, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _row_sums(  # type: ignore[no-untyped-def]
    scores, potentials, w, found, rows, prototypes, scale, side_stride, row_stride,
    WIDTH: tl.constexpr, DIRECT: tl.constexpr, BY_FOUR: tl.constexpr,
):  # fmt: skip
    """Program (row, side): top and 1 / sum of one row, a piece at a time under the largest yet.

    Nothing is clamped here: next to a sum of at least the smallest w it would change no bit.
    """
    if BY_FOUR:
        prototypes, side_stride, row_stride = prototypes // 4 * 4, side_stride // 4 * 4, row_stride // 4 * 4
    row, side = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = scores + side * side_stride + tl.cast(row, tl.int64) * row_stride
    top = float("-inf")
    total = 0.0
    for first in range(0, prototypes, WIDTH):
        columns = first + tl.arange(0, WIDTH)
        inside = columns < prototypes
        side_w = tl.load(w + side * prototypes + columns, mask=inside, other=0.0)
        exponents = tl.load(at + columns, mask=inside, other=0.0) * scale
        if not DIRECT:
            absorbed = tl.load(potentials + side * prototypes + columns, mask=inside, other=0.0)
            exponents = tl.where(inside, exponents + absorbed, float("-inf"))
            higher = tl.maximum(top, tl.max(exponents, axis=0))
            total *= tl.exp2(top - higher)
            top = higher
            exponents -= top
        total += tl.sum(tl.exp2(exponents) * side_w, axis=0)
    out = found + side * 2 * rows + row
    tl.store(out, top)
    tl.store(out + rows, 1.0 / total)


@triton.jit  # type: ignore[untyped-decorator]
def _columns(  # type: ignore[no-untyped-def]
    scores, potentials, factors, partial, rows, prototypes, scale, lowest, side_stride, row_stride,
    WIDTH: tl.constexpr, HEIGHT: tl.constexpr, DIRECT: tl.constexpr, BY_FOUR: tl.constexpr,
):  # fmt: skip
    """Program (tile, part, side): some columns of every parts-th block of rows."""
    if BY_FOUR:
        prototypes, side_stride, row_stride = prototypes // 4 * 4, side_stride // 4 * 4, row_stride // 4 * 4
    part, parts, side = tl.program_id(1), tl.num_programs(1), tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < prototypes
    absorbed = tl.load(potentials + side * prototypes + columns, mask=inside, other=0.0)
    sums = tl.zeros([WIDTH], dtype=tl.float32)
    for first in range(part * HEIGHT, rows, parts * HEIGHT):
        row = first + tl.arange(0, HEIGHT)
        present = row < rows
        mask = present[:, None] & inside[None, :]
        at = scores + side * side_stride + row.to(tl.int64)[:, None] * row_stride + columns[None, :]
        exponents = tl.load(at, mask=mask, other=0.0) * scale
        if not DIRECT:
            top = tl.load(factors + side * 2 * rows + row, mask=present, other=0.0)
            exponents += absorbed[None, :] - top[:, None]
            exponents = tl.where(exponents < lowest, lowest, exponents)
        share = tl.load(factors + side * 2 * rows + rows + row, mask=present, other=0.0)
        sums += tl.sum(tl.where(mask, tl.exp2(exponents) * share[:, None], 0.0), axis=0)
    out = partial + (side * parts + part) * prototypes
    tl.store(out + columns, sums, mask=inside)
