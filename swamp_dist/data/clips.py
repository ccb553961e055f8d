"""Clips of a long video: which captions a pair takes, how it grows, and its features' maximum over time.

The rules are those of the published HowTo100M loader (Miech et al. 2019). Pure functions of arrays;
`clips_numba` has `cut_clips` and `pool_pairs` as compiled code, with the same bits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from swamp_dist.data.lanes import item_choice, random_words

_TOKEN = re.compile(r"[\w']+")


class Clip(NamedTuple):
    """Captions joined to one pair, and the time they span."""

    captions: tuple[int, ...]
    """Caption numbers in the order in which their words follow each other."""
    start: float
    end: float
    """Seconds."""


class Cut(NamedTuple):
    """The clips of the pairs of one video, each clip once, with their words."""

    words: np.ndarray
    """(pairs, W) the first W words of every pair, padded with 0."""
    seconds: np.ndarray
    """(clips, 2) float64 start and end of every clip."""
    place: np.ndarray
    """(pairs,) int64: the clip of every pair."""


def cut_clips(
    ids: np.ndarray,
    times: np.ndarray,
    counts: np.ndarray,
    drawn: np.ndarray,
    min_seconds: float,
    min_words: int,
) -> Cut:
    """The clips of one video's pairs; each is grown once, however many pairs begin with its caption.

    Args:
        ids: (n, W) integers: the first W known words of every caption, padded with 0.
        times, counts, min_seconds, min_words: as in `grow`, the first two as arrays of float64 and int64.
        drawn: (pairs,) int64: the caption that each pair begins with.
    """
    distinct, place = np.unique(drawn, return_inverse=True)  # with replacement some come twice
    seconds, tokens = times.tolist(), counts.tolist()
    clips = [grow(seconds, tokens, i, min_seconds, min_words) for i in distinct.tolist()]
    spans = np.array([(clip.start, clip.end) for clip in clips], dtype=np.float64).reshape(-1, 2)
    return Cut(clip_words(ids, clips)[place], spans, place)


def grow(
    times: Sequence[Sequence[float]], counts: Sequence[int], i: int, min_seconds: float, min_words: int
) -> Clip:
    """The clip of caption `i`, joined with neighbours until it is long enough or the video ends.

    Of two neighbours the one that gives the shorter interval is taken, the previous one on a tie; with
    `min_seconds` = 0 the one with more words, the previous one on a tie. Its words are appended at the end,
    also those of a previous caption (published loader's rule).

    Args:
        times: (n, 2) start and end of every caption in seconds, float64, in the order of the video.
        counts: (n) words of every caption as tokens, before out-of-vocabulary words are dropped.
        i: the caption to begin with.
        min_seconds: least length of the clip.
        min_words: least number of tokens.
    """
    first = last = i
    taken, words, end_of_video = [i], counts[i], len(times) - 1
    while times[last][1] - times[first][0] < min_seconds or words < min_words:
        if first == 0 and last == end_of_video:
            break
        if last == end_of_video or (
            first > 0 and _previous_is_better(times, counts, first, last, min_seconds)
        ):
            first -= 1
            taken.append(first)
        else:
            last += 1
            taken.append(last)
        words += counts[taken[-1]]
    return Clip(tuple(taken), times[first][0], times[last][1])


def _previous_is_better(
    times: Sequence[Sequence[float]], counts: Sequence[int], first: int, last: int, min_seconds: float
) -> bool:
    if min_seconds == 0:
        return counts[first - 1] >= counts[last + 1]
    return times[last][1] - times[first - 1][0] <= times[last + 1][1] - times[first][0]


def clip_words(ids: np.ndarray, clips: Sequence[Clip]) -> np.ndarray:
    """(clips, W) the first W words of every clip, padded with 0.

    `ids` (n, W) holds the first W known words of every caption, so that the first W of several captions
    after one another are the same as if none had been cut.
    """
    captions = np.array([i for clip in clips for i in clip.captions], dtype=np.int64)
    owner = np.repeat(np.arange(len(clips)), [len(clip.captions) for clip in clips])
    rows = ids[captions]
    known = rows != 0
    owner, words = np.repeat(owner, known.sum(axis=1)), rows[known]
    place = np.arange(len(words)) - np.searchsorted(owner, owner)  # of each word among those of its clip
    kept = place < ids.shape[1]
    out = np.zeros((len(clips), ids.shape[1]), dtype=ids.dtype)
    out[owner[kept], place[kept]] = words[kept]
    return out


def count_tokens(caption: str) -> int:
    """Tokens of a caption as the published loader counts them: runs of letters, digits, _ and '."""
    return len(_TOKEN.findall(caption))


def row_bounds(seconds: np.ndarray, rate: float) -> np.ndarray:
    """(clips, 2) int64 first and one past the last feature row: int(start * rate), int(end * rate) + 1.

    Args:
        seconds: (clips, 2) float64 start and end, at least 0.
        rate: feature rows per second.
    """
    rows = (seconds * rate).astype(np.int64)  # cuts towards zero, as int() does
    rows[:, 1] += 1
    return rows


def pool_pairs(rows: np.ndarray, bounds: np.ndarray, place: np.ndarray, out: np.ndarray, first: int) -> None:
    """Write the maxima of every pair's clip into C columns of `out`, from `first` on.

    Args:
        rows: (T, C) features, as in `pool_max`.
        bounds: (clips, 2) of every clip, as in `pool_max`.
        place: (pairs,) int64: the clip of every pair.
        out: (pairs, at least first + C) of the dtype of `rows`, C-contiguous.
        first: a column.
    """
    np.take(pool_max(rows, bounds), place, axis=0, out=out[:, first : first + rows.shape[1]], mode="clip")


def pool_max(rows: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """(n, C) maximum over time of every slice rows[first:last] of `rows` (T, C); zeros where it is empty.

    float16 is compared as int16, some hundred times faster than numpy's half-precision maximum: the bits of
    non-negative halves are in the order of their values and above those of all others. A maximum that is
    negative is looked for again among keys that have negative halves in order, too.

    Args:
        rows: (T, C) floats without nan.
        bounds: (n, 2) integers of at least 0; what lies past T is cut off.
    """
    if rows.dtype != np.float16:
        return _maxima(rows, bounds)
    bits = rows.view(np.int16)
    out = _maxima(bits, bounds)
    if out.size and out.min() < 0:
        out = _order_bits(_maxima(_order_bits(bits), bounds))
    return out.view(np.float16)


def _maxima(rows: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    out = np.zeros((len(bounds), rows.shape[1]), dtype=rows.dtype)
    for row, (first, last) in zip(out, bounds.tolist(), strict=True):
        part = rows[first:last]
        if len(part):
            np.maximum.reduce(part, axis=0, out=row)
    return out


def _order_bits(bits: np.ndarray) -> np.ndarray:
    """int16 in the order of the halves with these bits; its own inverse: flips all but the sign of negative
    ones."""
    flipped: np.ndarray = bits ^ ((bits >> 15) & np.int16(0x7FFF))
    return flipped


def caption_choice(seed: int, epoch: int, key: str, count: int, pairs: int, replace: bool) -> np.ndarray:
    """(pairs,) int64: captions that a video's pairs begin with in this epoch.

    Args:
        seed: of the training. epoch: from 0. key: of the entry; the choice depends on nothing else.
        count: captions of the video. pairs: to draw.
        replace: draw with replacement, as the published loader does; else a caption comes again only
            when all have been taken.
    """
    if not replace:
        return item_choice(seed, epoch, key, count, pairs)
    words = random_words(pairs, "captions", seed, epoch, key)
    drawn: np.ndarray = (words % np.uint64(count)).astype(np.int64)
    return drawn
