from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swamp_dist.data.clips import (
    Clip,
    caption_choice,
    clip_words,
    count_tokens,
    cut_clips,
    grow,
    pool_max,
    pool_pairs,
    row_bounds,
)


def grown_slowly(times, texts, i, min_seconds, min_words):
    """The published rule told literally, on lists of words."""
    start = end = i
    words = list(texts[i])
    while True:
        length = times[end][1] - times[start][0]
        if not (length < min_seconds or len(words) < min_words):
            break
        has_previous, has_next = start > 0, end < len(times) - 1
        if has_previous and has_next:
            with_previous = times[end][1] - times[start - 1][0]
            with_next = times[end + 1][1] - times[start][0]
            if min_seconds > 0:
                previous = with_previous <= with_next
            else:
                previous = len(texts[end + 1]) <= len(texts[start - 1])
        elif has_previous or has_next:
            previous = has_previous
        else:
            break
        if previous:
            start -= 1
            words.extend(texts[start])
        else:
            end += 1
            words.extend(texts[end])
    return words, times[start][0], times[end][1]


@st.composite
def videos(draw):
    """Captions in quarter seconds (ties are common), overlapping or with gaps, of 0 to 7 words."""
    n = draw(st.integers(1, 8))
    steps = draw(st.lists(st.integers(0, 12), min_size=n, max_size=n))
    lengths = draw(st.lists(st.integers(0, 16), min_size=n, max_size=n))
    starts = np.cumsum(steps) / 4
    times = [(float(s), float(s + x / 4)) for s, x in zip(starts, lengths, strict=True)]
    sizes = draw(st.lists(st.integers(0, 7), min_size=n, max_size=n))
    words = iter(range(1, 1000))
    return times, [[next(words) for _ in range(size)] for size in sizes]


@settings(max_examples=400, deadline=None)
@given(videos(), st.data(), st.sampled_from([0.0, 1.0, 5.0]), st.sampled_from([0, 3, 10]))
def test_a_clip_grows_as_published(video, data, min_seconds, min_words):
    times, texts = video
    i = data.draw(st.integers(0, len(times) - 1))
    clip = grow(times, [len(words) for words in texts], i, min_seconds, min_words)
    words, start, end = grown_slowly(times, texts, i, min_seconds, min_words)
    assert (clip.start, clip.end) == (start, end)
    assert [word for number in clip.captions for word in texts[number]] == words
    width = 6
    ids = np.array([(text + [0] * width)[:width] for text in texts], dtype=np.int32)
    assert clip_words(ids, [clip]).tolist() == [(words + [0] * width)[:width]]


def test_growth_by_hand():
    times = [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0), (7.0, 9.0)]
    assert grow(times, [1] * 4, 1, 5.0, 0) == Clip((1, 0, 2), 0.0, 6.0)  # a tie goes to the previous caption
    assert grow(times, [1] * 4, 2, 4.0, 0) == Clip((2, 1), 2.0, 6.0)  # 4 s are enough
    assert grow(times, [1] * 4, 3, 99.0, 0) == Clip((3, 2, 1, 0), 0.0, 9.0)
    # without a time, the neighbour with more words
    assert grow(times, [9, 1, 2, 1], 1, 0.0, 3) == Clip((1, 0), 0.0, 4.0)
    assert grow(times, [2, 1, 9, 1], 1, 0.0, 3) == Clip((1, 2), 2.0, 6.0)
    assert grow(times, [2, 1, 2, 9], 1, 0.0, 6) == Clip((1, 0, 2, 3), 0.0, 9.0)  # a tie, then the end
    assert grow(times, [1] * 4, 0, 0.0, 0) == Clip((0,), 0.0, 2.0)


def test_words_in_the_middle_of_padding_are_found():
    ids = np.array([[0, 0, 0], [4, 0, 0], [5, 6, 7]], dtype=np.int32)
    clips = [Clip((1, 2), 0, 1), Clip((0,), 0, 1), Clip((2, 1), 0, 1)]
    assert clip_words(ids, clips).tolist() == [[4, 5, 6], [0, 0, 0], [5, 6, 7]]


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 5000), st.floats(0, 5000), st.sampled_from([1.0, 1.5]))
def test_rows_are_cut_towards_zero(start, end, rate):
    bounds = row_bounds(np.array([[start, end]]), rate)
    assert bounds.tolist() == [[int(start * rate), int(end * rate) + 1]]


HALVES = st.integers(0, 2**16 - 1).filter(lambda bits: bits & 0x7C00 != 0x7C00 or bits & 0x3FF == 0)


@settings(max_examples=200, deadline=None)
@given(st.lists(HALVES, min_size=12, max_size=36), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12))))
def test_pooling_is_the_float32_maximum(bits, bounds):
    """Over all halves but nan: negative, subnormal, infinite, both zeros."""
    rows = np.array(bits[: len(bits) // 4 * 4], dtype=np.uint16).view(np.float16).reshape(-1, 4)
    found = pool_max(rows, np.array(bounds, dtype=np.int64).reshape(-1, 2))
    assert found.dtype == np.float16
    for row, (first, last) in zip(found, bounds, strict=True):
        part = rows[first:last].astype(np.float32)
        expected = part.max(axis=0) if len(part) else np.zeros(4, np.float32)
        assert np.array_equal(row.astype(np.float32), expected)


def test_every_pair_of_neighbouring_halves_is_in_order():
    finite = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = finite[~np.isnan(finite)]
    values = finite[np.argsort(finite.astype(np.float32), kind="stable")]
    pairs = np.stack([values[:-1], values[1:]])
    one_clip = np.array([[0, 2]])
    assert np.array_equal(pool_max(pairs, one_clip)[0].astype(np.float32), values[1:].astype(np.float32))
    assert np.array_equal(
        pool_max(pairs[::-1], one_clip)[0].astype(np.float32), values[1:].astype(np.float32)
    )


def test_pooling_leaves_its_input_alone_and_takes_float32():
    rows = np.array([[-1.0, 2.0], [-3.0, 0.5]], dtype=np.float16)
    rows.flags.writeable = False
    bounds = np.array([[0, 2], [1, 2], [2, 9], [1, 1]])
    expected = [[-1.0, 2.0], [-3.0, 0.5], [0.0, 0.0], [0.0, 0.0]]
    assert pool_max(rows, bounds).tolist() == expected
    assert pool_max(rows.astype(np.float32), bounds).tolist() == expected
    assert rows.tolist() == [[-1.0, 2.0], [-3.0, 0.5]]


def test_a_clip_that_several_pairs_take_is_cut_once_and_pooled_for_each():
    times = np.array([[0.0, 2.0], [2.0, 4.0], [4.0, 6.0], [7.0, 9.0]])
    ids = np.array([[1, 0, 0], [2, 3, 0], [4, 0, 0], [5, 6, 7]], dtype=np.int32)
    cut = cut_clips(ids, times, np.ones(4, np.int64), np.array([2, 3, 2, 1]), 3.0, 0)
    assert cut.words.tolist() == [[4, 2, 3], [5, 6, 7], [4, 2, 3], [2, 3, 1]]
    assert cut.seconds[cut.place].tolist() == [[2.0, 6.0], [4.0, 9.0], [2.0, 6.0], [0.0, 4.0]]
    assert len(cut.seconds) == 3
    rows = np.array([[1, 9], [2, 8], [3, 7]], dtype=np.float16)
    out = np.zeros((3, 4), dtype=np.float16)
    pool_pairs(rows, np.array([[0, 2], [1, 3]]), np.array([1, 0, 1]), out, 1)
    assert out.tolist() == [[0, 3, 8, 0], [0, 2, 9, 0], [0, 3, 8, 0]]


def test_captions_are_drawn_with_replacement_by_seed_epoch_and_key():
    drawn = caption_choice(1, 2, "video", 110, 6400, replace=True)
    assert drawn.dtype == np.int64
    assert (drawn.min(), drawn.max()) == (0, 109)
    assert len(set(drawn[:64].tolist())) < 64
    counts = np.bincount(drawn, minlength=110)
    assert ((counts - 6400 / 110) ** 2 / (6400 / 110)).sum() < 180  # chi-square of 109, p = 2e-5
    assert np.array_equal(caption_choice(1, 2, "video", 110, 64, replace=True), drawn[:64])
    for other in ((0, 2, "video"), (1, 3, "video"), (1, 2, "other")):
        assert not np.array_equal(caption_choice(*other, 110, 64, replace=True), drawn[:64])


@pytest.mark.parametrize(("count", "most"), [(110, 1), (64, 1), (10, 7)])
def test_without_replacement_all_are_taken_before_one_comes_again(count, most):
    drawn = caption_choice(0, 0, "video", count, 64, replace=False)
    assert np.bincount(drawn).max() == most


def test_tokens():
    for text in ("don't  stop", "", "a,b", "x_1 y-2"):
        assert count_tokens(text) == len(re.compile(r"[\w']+").findall(text))
    assert count_tokens("don't stop-it") == 3
