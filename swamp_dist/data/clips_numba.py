"""`cut_clips` and `pool_pairs` of `clips` as machine code for the CPU at hand, by numba: the same bits.

Imported where numba can be; `clips` has the same in numpy. Bounds are computed there for both, and so are the
maxima of float32 and float64: numpy's own run at the speed of memory, and which of two zeros of different
signs is the larger depends there on the instructions of the CPU. Arrays that lie otherwise than entries
have them (in another byte order, with gaps, not aligned) go to numpy, too.
"""

from __future__ import annotations

import numpy as np

from swamp_dist.compiled import CompiledFunctions
from swamp_dist.data import clips
from swamp_dist.data.clips import Cut

_functions = CompiledFunctions(globals(), "compiled code for clips")
_h = np.int16


def cut_clips(
    ids: np.ndarray,
    times: np.ndarray,
    counts: np.ndarray,
    drawn: np.ndarray,
    min_seconds: float,
    min_words: int,
) -> Cut:
    """As `clips.cut_clips`; the clips are in the order of the pairs that first take them.

    Raises:
        IndexError: there is no such caption. ValueError: as many ids, times and counts were not given.
    """
    if not len(ids) == len(times) == len(counts):
        raise ValueError(f"{len(ids)} rows of ids, {len(times)} of times and {len(counts)} counts")
    if not _is_plain(ids):
        return clips.cut_clips(ids, times, counts, drawn, min_seconds, min_words)
    words = np.empty((len(drawn), ids.shape[1]), ids.dtype)
    seconds, place = np.empty((len(drawn), 2)), np.empty(len(drawn), np.int64)
    limits = float(min_seconds), int(min_words)
    count = _functions.call("_cut", _read_only(ids), times, counts, drawn, *limits, words, seconds, place)
    if count < 0:
        raise IndexError(f"captions {drawn.min()} to {drawn.max()} of {len(ids)}")
    return Cut(words, seconds[:count], place)


def pool_pairs(rows: np.ndarray, bounds: np.ndarray, place: np.ndarray, out: np.ndarray, first: int) -> None:
    """As `clips.pool_pairs`; each clip's maxima are made in the row of the first pair that takes it.

    Raises:
        ValueError: `out` has too few rows or columns, or another dtype. IndexError: there is no such clip.
    """
    if rows.dtype != np.float16 or not _is_plain(rows):
        clips.pool_pairs(rows, bounds, place, out, first)
        return
    if out.dtype != rows.dtype or len(out) != len(place) or not 0 <= first <= out.shape[1] - rows.shape[1]:
        raise ValueError(
            f"{rows.dtype} {rows.shape} for {len(place)} pairs do not go into {out.dtype} {out.shape} "
            f"from column {first} on"
        )
    bits = _read_only(rows.view(_h))
    if not _functions.call("_pool", bits, bounds, place, out.view(_h), first):
        raise IndexError(f"clips {place.min()} to {place.max()} of {len(bounds)}")


def compile_now(ids: np.dtype, features: np.dtype) -> None:
    """Compile what entries with such fields take, or load it where an earlier process kept it, so that
    processes that are forked from this one need not."""
    cut = cut_clips(np.ones((1, 1), ids), np.zeros((1, 2)), np.ones(1, np.int64), np.zeros(2, np.int64), 0, 0)
    pool_pairs(np.ones((1, 1), features), np.array([[0, 1]]), cut.place, np.empty((2, 1), features), 0)


def _is_plain(array: np.ndarray) -> bool:
    return array.dtype.isnative and array.flags.c_contiguous and array.flags.aligned


def _read_only(array: np.ndarray) -> np.ndarray:
    """A view that has one type to the compiler, whether the reader's memory may be written or not."""
    view = array.view()
    view.flags.writeable = False
    return view


# Compiled functions: arrays and numbers come untyped.


@_functions.compiled()
def _copy(row, out):  # type: ignore[no-untyped-def]
    for k in range(out.shape[0]):
        out[k] = row[k]


@_functions.compiled()
def _grow(times, counts, i, min_seconds, min_words, taken):  # type: ignore[no-untyped-def]
    """As `clips.grow`: captions in `taken` (n,); how many, the first in time and the last."""
    first = last = i
    taken[0], number, words, end_of_video = i, 1, counts[i], times.shape[0] - 1
    while times[last, 1] - times[first, 0] < min_seconds or words < min_words:
        if first == 0 and last == end_of_video:
            break
        if last == end_of_video:
            is_previous = True
        elif first == 0:
            is_previous = False
        elif min_seconds == 0:
            is_previous = counts[first - 1] >= counts[last + 1]
        else:
            with_previous = times[last, 1] - times[first - 1, 0]
            is_previous = with_previous <= times[last + 1, 1] - times[first, 0]
        if is_previous:
            first -= 1
            added = first
        else:
            last += 1
            added = last
        taken[number] = added
        number += 1
        words += counts[added]
    return number, first, last


@_functions.compiled()
def _fill_words(ids, taken, out):  # type: ignore[no-untyped-def]
    """The first known words of these captions one after the other, then zeros."""
    at = 0
    for caption in taken:
        for k in range(ids.shape[1]):
            if at < out.shape[0] and ids[caption, k] != 0:
                out[at] = ids[caption, k]
                at += 1
    for k in range(at, out.shape[0]):
        out[k] = 0


@_functions.compiled()
def _cut(ids, times, counts, drawn, min_seconds, min_words, words, seconds, place):  # type: ignore[no-untyped-def]
    """How many clips there are; -1 where a pair begins with a caption that is not there."""
    captions = times.shape[0]
    taken, owner = np.empty(captions, np.int64), np.full(captions, -1, np.int64)
    number = 0
    for pair in range(drawn.shape[0]):
        i = drawn[pair]
        if i < 0 or i >= captions:
            return -1
        if owner[i] >= 0:
            _copy(words[owner[i]], words[pair])
            place[pair] = place[owner[i]]
            continue
        owner[i] = pair
        length, first, last = _grow(times, counts, i, min_seconds, min_words, taken)
        seconds[number, 0], seconds[number, 1] = times[first, 0], times[last, 1]
        _fill_words(ids, taken[:length], words[pair])
        place[pair] = number
        number += 1
    return number


@_functions.compiled()
def _ordered(bits):  # type: ignore[no-untyped-def]
    """As `clips._order_bits`: bits of a half as a number in the order of halves, and back."""
    return _h(bits ^ _h(_h(bits >> _h(15)) & _h(0x7FFF)))


@_functions.compiled()
def _larger(rows, first, last, out, begins):  # type: ignore[no-untyped-def]
    """Raise `out` to the maxima of rows first..last - 1, at most four; where `begins`, it holds none yet."""
    a, b = rows[first], rows[min(first + 1, last - 1)]
    c, d = rows[min(first + 2, last - 1)], rows[min(first + 3, last - 1)]
    if begins:
        for k in range(out.shape[0]):
            out[k] = max(max(a[k], b[k]), max(c[k], d[k]))
    else:
        for k in range(out.shape[0]):
            out[k] = max(out[k], max(max(a[k], b[k]), max(c[k], d[k])))


@_functions.compiled()
def _pool_row(bits, first, last, out):  # type: ignore[no-untyped-def]
    """Maxima of the halves with these bits, as `clips.pool_max` finds them, in `out` (C,)."""
    if first >= last:
        for k in range(out.shape[0]):
            out[k] = _h(0)
        return
    for at in range(first, last, 4):
        _larger(bits, at, min(at + 4, last), out, at == first)
    least = _h(0)
    for k in range(out.shape[0]):
        least = min(least, out[k])
    if least < 0:
        for k in range(out.shape[0]):
            out[k] = _ordered(bits[first, k])
        for t in range(first + 1, last):
            for k in range(out.shape[0]):
                out[k] = max(out[k], _ordered(bits[t, k]))
        for k in range(out.shape[0]):
            out[k] = _ordered(out[k])


@_functions.compiled()
def _pool(bits, bounds, place, out, column):  # type: ignore[no-untyped-def]
    """False where a pair takes a clip that is not there."""
    owner = np.full(bounds.shape[0], -1, np.int64)
    past = column + bits.shape[1]
    for pair in range(place.shape[0]):
        clip = place[pair]
        if clip < 0 or clip >= bounds.shape[0]:
            return False
        if owner[clip] >= 0:
            _copy(out[owner[clip], column:past], out[pair, column:past])
            continue
        owner[clip] = pair
        first, last = max(bounds[clip, 0], 0), min(bounds[clip, 1], bits.shape[0])
        _pool_row(bits, first, last, out[pair, column:past])
    return True
