"""The passes of a Sinkhorn iteration over a float32 matrix as machine code for the CPU at hand, by numba.

Imported where `passes` chose it; `masses` has the same passes in plain torch. A pass goes once over the rows,
eight at a time: it makes their kernel if asked, takes r_i = 1 / (G w)_i while a row is in the first-level
cache, and adds r_i G_ik of the eight to the column sums. Numba compiles for the vector width of the CPU at
hand, when a pass first runs, and keeps the code beside this file or in the user's cache. Sums are those of
256 rows each, added in a fixed order, so their bits do not depend on the number of threads.

Threads are those of a pool of this module, as many as torch would take: numba's own are not safe where
several threads of a process solve at once.

Shape letters: M problems solved together, n rows, K prototypes, C chunks of rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from swamp_dist.compiled import CompiledFunctions

_functions = CompiledFunctions(globals(), "compiled passes of the solve")
CHUNK_ROWS = 256
"""Rows whose sums are added up first: 32 times eight."""
_TOGETHER = 8
_EXACT, _SUMS = {"contract"}, {"contract", "reassoc", "nsz"}
"""What the compiler may do to a formula, and to a sum: products and sums may become one operation, and a sum
may be taken in any order. Nothing assumes that values are finite: nan stays, and all ranks see it."""
_f, _i = np.float32, np.int32
_NONE = np.zeros((0, 0), np.float32)


class Making(NamedTuple):
    """How the kernel is made of the scores."""

    scale: float
    """What makes exponents in base 2 of scores."""
    lowest: float
    """Exponents are clamped here, relative to the largest of the row; not where `absorbed` is None."""
    absorbed: Tensor | None
    """log2 potentials (M, K) in the kernel; None for the direct kernel."""


def column_sums(
    scores: Tensor, kernel: Tensor, w: Tensor | None, factors: Tensor | None, making: Making | None
) -> Tensor:
    """sum_i f_i G_ik / (G w)_i, or sum_i f_i G_ik where w is None: (M, K).

    Args:
        scores: (M, n, K), rows contiguous; any n, 0 included.
        kernel: (M, n, K), which holds G, or is filled with it where `making` says how.
        w: potentials (M, K), positive.
        factors: (n,) or (M, n); None for 1.
        making: None where the kernel in memory is the one that is wanted.
    """
    problems, rows, prototypes = kernel.shape
    partial = kernel.new_empty(problems, -(-rows // CHUNK_ROWS), prototypes)
    scale, lowest, absorbed = (0.0, 0.0, None) if making is None else making
    if factors is not None:
        factors = factors.expand(problems, rows).contiguous()
    arguments = (
        scores.contiguous().numpy(),
        kernel.numpy(),
        making is not None,
        _f(scale),
        _f(lowest),
        *(_NONE if x is None else x.numpy() for x in (absorbed, w, factors)),
        partial.numpy(),
    )
    _run(lambda first, past: _functions.call("_pass", *arguments, first, past), problems * partial.shape[1])
    return partial.sum(dim=1)


def centre(log2_w: Tensor) -> tuple[Tensor, Tensor]:
    """log2_w (M, K) less the middle of each row's range, and 2 to the power of it, at most 2^126."""
    log2_w = log2_w.contiguous()
    centred, w = torch.empty_like(log2_w), torch.empty_like(log2_w)
    _functions.call("_centre", log2_w.numpy(), centred.numpy(), w.numpy())
    return centred, w


def plan(scores: Tensor, log2_v: Tensor, scale: float, lowest: float, out: Tensor) -> None:
    """Rows of 2^(scale * s_ik + log2 v_k) over their sums in `out` (M, n, K); exponents are clamped at
    `lowest` below the largest of their row."""
    arguments = scores.contiguous().numpy(), _f(scale), _f(lowest), log2_v.numpy(), out.numpy()
    chunks = len(scores) * -(-scores.shape[1] // CHUNK_ROWS)
    _run(lambda first, past: _functions.call("_plan", *arguments, first, past), chunks)


def _run(function: Callable[[int, int], None], chunks: int) -> None:
    """`function` of the first chunk and the one past the last, on as many threads as torch would take."""
    threads = min(torch.get_num_threads(), chunks)
    if threads <= 1:
        function(0, chunks)
        return
    edges = [chunks * part // threads for part in range(threads + 1)]
    for running in [_pool(threads).submit(function, *edge) for edge in itertools.pairwise(edges)]:
        running.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="solve")


# Compiled functions: arrays of float32 and numbers come untyped.


@_functions.compiled(_EXACT)
def _exp2(x):  # type: ignore[no-untyped-def]
    """2^x for x in -126..126, to 1.5 units in the last place: the nearest whole number n by a shift to the
    exponent, and the polynomial of degree 5 with the least relative error on -0.5..0.5, 7.5e-8."""
    shifted = _i(x + _f(160.5))  # whole numbers of 32 bits stay so only where each result is cut to them
    f = x - (_f(shifted) - _f(160))
    p = _f(1.327647178e-3)
    p = p * f + _f(9.675541333e-3)
    p = p * f + _f(5.550713274e-2)
    p = p * f + _f(2.402211972e-1)
    p = p * f + _f(6.931469671e-1)
    p = p * f + _f(1.000000072)
    return p * _i(_i(shifted - _i(33)) << _i(23)).view(_f)


@_functions.compiled(_EXACT)
def _direct_row(scores, scale, out):  # type: ignore[no-untyped-def]
    for k in range(out.shape[0]):
        out[k] = _exp2(scores[k] * scale)


@_functions.compiled(_EXACT)
def _ordered(bits):  # type: ignore[no-untyped-def]
    """Bits of a float as a number in the order of floats, and back."""
    return _i(bits ^ _i(_i(bits >> _i(31)) & _i(0x7FFFFFFF)))


@_functions.compiled(_EXACT)
def _absorbed_row(scores, scale, lowest, log2_v, out):  # type: ignore[no-untyped-def]
    """2^(scale * s_k + log2 v_k - top), top the largest exponent.

    Exponents are compared as whole numbers of their bits, whose order is theirs: that is compiled to vectors,
    and a nan is larger than all. A comparison with nan is false: nan stays.
    """
    top = _i(-(2**31) + 1)
    for k in range(out.shape[0]):
        exponent = scores[k] * scale + log2_v[k]
        out[k] = exponent
        top = _i(max(top, _ordered(_f(exponent).view(_i))))
    largest = _i(_ordered(top)).view(_f)
    for k in range(out.shape[0]):
        exponent = out[k] - largest
        out[k] = _exp2(lowest if exponent < lowest else exponent)


@_functions.compiled(_SUMS)
def _dot(row, w):  # type: ignore[no-untyped-def]
    total = _f(0)
    for k in range(w.shape[0]):
        total += row[k] * w[k]
    return total


@_functions.compiled(_SUMS)
def _total(row):  # type: ignore[no-untyped-def]
    total = _f(0)
    for k in range(row.shape[0]):
        total += row[k]
    return total


@_functions.compiled(_SUMS)
def _add_eight(g, f, sums):  # type: ignore[no-untyped-def]
    """Eight rows times their factors to the column sums, which are read and written once for them."""
    f0, f1, f2, f3, f4, f5, f6, f7 = f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7]
    g0, g1, g2, g3, g4, g5, g6, g7 = g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7]
    for k in range(sums.shape[0]):
        low = (g0[k] * f0 + g1[k] * f1) + (g2[k] * f2 + g3[k] * f3)
        sums[k] += low + ((g4[k] * f4 + g5[k] * f5) + (g6[k] * f6 + g7[k] * f7))


@_functions.compiled(_EXACT)
def _add_one(row, factor, sums):  # type: ignore[no-untyped-def]
    for k in range(sums.shape[0]):
        sums[k] += row[k] * factor


@_functions.compiled(_EXACT)
def _make_rows(scores, rows, scale, lowest, absorbed):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        if absorbed.shape[0] == 0:
            _direct_row(scores[i], scale, rows[i])
        else:
            _absorbed_row(scores[i], scale, lowest, absorbed, rows[i])


@_functions.compiled(_EXACT)
def _pass(scores, kernel, makes, scale, lowest, absorbed, w, factors, partial, first, past):  # type: ignore[no-untyped-def]
    """Chunks `first` to `past`, counted over the rows of all problems in turn."""
    f, nothing = np.ones(_TOGETHER, _f), np.empty(0, _f)
    for number in range(first, past):
        side, chunk = divmod(number, partial.shape[1])
        sums, side_w = partial[side, chunk], w[side] if w.shape[0] > 0 else nothing
        side_absorbed = absorbed[side] if absorbed.shape[0] > 0 else nothing
        side_factors = factors[side] if factors.shape[0] > 0 else nothing
        sums[:] = _f(0)
        begin, end = chunk * CHUNK_ROWS, min((chunk + 1) * CHUNK_ROWS, kernel.shape[1])
        for at in range(begin, end, _TOGETHER):
            g = kernel[side, at : min(at + _TOGETHER, end)]
            if makes:
                _make_rows(scores[side, at : at + len(g)], g, scale, lowest, side_absorbed)
            if side_w.shape[0] > 0:
                for j in range(len(g)):
                    f[j] = _f(1) / _dot(g[j], side_w)
            else:
                f[:] = _f(1)
            if side_factors.shape[0] > 0:
                for j in range(len(g)):
                    f[j] *= side_factors[at + j]
            if len(g) == _TOGETHER:
                _add_eight(g, f, sums)
            else:
                for j in range(len(g)):
                    _add_one(g[j], f[j], sums)


@_functions.compiled(_EXACT)
def _plan(scores, scale, lowest, log2_v, out, first, past):  # type: ignore[no-untyped-def]
    """Chunks `first` to `past` as in `_pass`: each row over its sum."""
    rows = out.shape[1]
    chunks = (rows + CHUNK_ROWS - 1) // CHUNK_ROWS
    for number in range(first, past):
        side, chunk = divmod(number, chunks)
        for i in range(chunk * CHUNK_ROWS, min((chunk + 1) * CHUNK_ROWS, rows)):
            row = out[side, i]
            _absorbed_row(scores[side, i], scale, lowest, log2_v[side], row)
            share = _f(1) / _total(row)
            for k in range(row.shape[0]):
                row[k] *= share


@_functions.compiled(_EXACT)
def _centre(log2_w, centred, w):  # type: ignore[no-untyped-def]
    for side in range(log2_w.shape[0]):
        low, high = log2_w[side].min(), log2_w[side].max()
        middle = (high + low) / _f(2)
        for k in range(log2_w.shape[1]):
            exponent = log2_w[side, k] - middle
            centred[side, k] = exponent
            exponent = _f(-126) if exponent < _f(-126) else exponent
            w[side, k] = _exp2(_f(126) if exponent > _f(126) else exponent)
