"""The compiled code for clips has the bits of the numpy functions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swamp_dist.data import clips, clips_numba
from tests.data.test_clips import videos

MIN_SECONDS, MIN_WORDS = st.sampled_from([0.0, 1.0, 5.0]), st.sampled_from([0, 3, 10])
C = 6


@settings(max_examples=400)
@given(videos(), st.data(), MIN_SECONDS, MIN_WORDS)
def test_a_clip_grows_by_the_same_captions_in_the_same_order(video, data, min_seconds, min_words):
    times, texts = np.array(video[0]), np.array([len(words) for words in video[1]])
    i = data.draw(st.integers(0, len(times) - 1))
    expected = clips.grow(times.tolist(), texts.tolist(), i, min_seconds, min_words)
    taken = np.full(len(times), -1)
    number, first, last = clips_numba._grow(times, texts, i, min_seconds, min_words, taken)
    assert tuple(taken[:number].tolist()) == expected.captions
    assert (times[first, 0], times[last, 1]) == (expected.start, expected.end)


def same_cut(ids, times, counts, drawn, min_seconds, min_words):
    found, expected = (
        program.cut_clips(ids, times, counts, drawn, min_seconds, min_words)
        for program in (clips_numba, clips)
    )
    assert found.words.dtype == expected.words.dtype == ids.dtype
    assert np.array_equal(found.words, expected.words)
    assert np.array_equal(found.seconds[found.place], expected.seconds[expected.place])
    assert len(found.seconds) == len(expected.seconds) == len(set(drawn.tolist()))
    return found


@settings(max_examples=300)
@given(
    videos(), st.data(), MIN_SECONDS, MIN_WORDS, st.sampled_from(["<i4", "<i8", "<u2", ">i4"]), st.booleans()
)
def test_pairs_have_the_same_words_and_times(video, data, min_seconds, min_words, dtype, has_gaps):
    """Some begin with the same caption; known words stand anywhere in a caption."""
    times, texts = np.array(video[0]), video[1]
    n = len(times)
    drawn = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=12)), dtype=np.int64)
    known = data.draw(st.lists(st.integers(0, 3), min_size=n * C, max_size=n * C))
    ids = np.array(known, dtype=dtype).reshape(n, C)
    ids = np.repeat(ids, 2, axis=1)[:, ::2] if has_gaps else ids
    before = ids.copy()
    same_cut(ids, times, np.array([len(words) for words in texts]), drawn, min_seconds, min_words)
    assert np.array_equal(ids, before)


def test_a_time_that_is_infinite_ends_growth_as_in_numpy():
    times = np.array([[0.0, 1.0], [2.0, np.inf], [np.inf, np.inf]])
    ids, drawn = np.ones((3, 2), np.int32), np.array([2, 1, 0, 2])
    for least in (0.0, 5.0):
        same_cut(ids, times, np.ones(3, np.int64), drawn, least, 2)


def same_pooled(rows, bounds, place, first=0, more=0):
    """Both fill the same columns of a larger array and leave the others alone."""
    bounds, place = np.array(bounds, np.int64).reshape(-1, 2), np.array(place, np.int64)
    outs = [np.full((len(place), first + rows.shape[1] + more), 7, rows.dtype) for _ in range(2)]
    for program, out in zip((clips_numba, clips), outs, strict=True):
        program.pool_pairs(rows, bounds, place, out, first)
    assert outs[0].tobytes() == outs[1].tobytes()
    return outs[0]


BOUNDS = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 20)), min_size=1, max_size=6)
ANY_HALF = st.integers(0, 2**16 - 1)
SIGNED_ZERO = st.sampled_from([0, 0x8000, 0x8000, 0x8000, 0x8001, 0xFC00, 0x0001])
NEGATIVE = st.integers(0x8000, 0xFC00)


@settings(max_examples=400)
@given(st.data(), BOUNDS, st.sampled_from([ANY_HALF, SIGNED_ZERO, NEGATIVE]), st.integers(0, 3))
def test_maxima_of_halves_have_the_same_bits(data, bounds, halves, first):
    """All halves, nan too; slices that are empty, of one row, past the end; clips that several pairs take."""
    bits = data.draw(st.lists(halves, min_size=C, max_size=14 * C))
    rows = np.array(bits[: len(bits) // C * C], np.uint16).view(np.float16).reshape(-1, C)
    place = data.draw(st.lists(st.integers(0, len(bounds) - 1), max_size=9))
    before = rows.tobytes()
    same_pooled(rows, bounds, place, first, more=2)
    assert rows.tobytes() == before


@pytest.mark.parametrize("others", [0.0, -2.0])
@pytest.mark.parametrize("rows", range(10))
def test_every_row_of_a_clip_counts(rows, others):
    """The largest value in each row in turn, of wide rows, which are taken in vectors."""
    features = np.zeros((rows, 131), np.float16)
    for row in range(rows):
        features[:] = others
        features[row] = others + np.linspace(1, 3, 131)
        same_pooled(features, [(0, rows), (row, row + 1), (0, row)], [0, 1, 2, 0])


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # on some CPUs
def test_times_past_all_whole_numbers_take_no_row():
    rows = np.ones((4, C), np.float16)
    bounds = clips.row_bounds(np.array([[0.0, np.inf], [np.inf, np.inf], [1e300, 1e301], [0, 1.0]]), 1.5)
    assert same_pooled(rows, bounds, [0, 1, 2, 3]).any(axis=1).tolist() == [False, False, False, True]


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f2", ">f4"])
def test_other_floats_are_those_of_numpy(dtype):
    rows = np.random.default_rng(0).standard_normal((9, C)).astype(dtype)
    same_pooled(rows, [(0, 3), (2, 99), (5, 5)], [1, 0, 0, 2], first=1)


def test_arrays_that_lie_otherwise_go_to_numpy(monkeypatch):
    rows = np.random.default_rng(0).standard_normal((9, C)).astype(np.float16)
    bounds, place = [(0, 3), (2, 99), (5, 5)], [1, 0, 0, 2]
    expected = same_pooled(rows, bounds, place)
    unaligned = np.frombuffer(b"x" + rows.tobytes(), np.float16, offset=1).reshape(rows.shape)
    assert not unaligned.flags.aligned
    pool, calls = clips.pool_pairs, []
    monkeypatch.setattr(clips, "pool_pairs", lambda *arrays: calls.append(arrays) or pool(*arrays))
    for other in (unaligned, np.asfortranarray(rows), np.repeat(rows, 2, axis=1)[:, ::2]):
        assert np.array_equal(same_pooled(other, bounds, place), expected)
    assert len(calls) == 3 * 2


def test_what_lies_outside_an_array_is_refused():
    """Compiled code would read or write it."""
    ids, times, counts = np.ones((3, 2), np.int32), np.zeros((3, 2)), np.zeros(3, np.int64)
    for caption in (3, -1):
        with pytest.raises(IndexError, match=f"captions .*{caption}.* of 3"):
            clips_numba.cut_clips(ids, times, counts, np.array([0, caption]), 5.0, 0)
    for short in ((ids[:2], times, counts), (ids, times[:2], counts), (ids, times, counts[:2])):
        with pytest.raises(ValueError, match="rows of ids"):
            clips_numba.cut_clips(*short, np.array([0]), 5.0, 0)
    rows, bounds, out = np.ones((3, 2), np.float16), np.array([[0, 3]]), np.ones((2, 4), np.float16)
    for clip in (1, -1):
        with pytest.raises(IndexError, match=f"clips .*{clip}.* of 1"):
            clips_numba.pool_pairs(rows, bounds, np.array([0, clip]), out, 0)
    for unfit, first in ((out[:1], 0), (out, 3), (out, -1), (out.astype(np.float32), 0)):
        with pytest.raises(ValueError, match="do not go into"):
            clips_numba.pool_pairs(rows, bounds, np.array([0, 0]), unfit, first)


@pytest.mark.parametrize("is_writable", [False, True])
def test_nothing_is_compiled_once_it_was_asked_for(is_writable):
    """A reader's memory may be written or not."""
    clips_numba.compile_now(np.dtype(np.int32), np.dtype(np.float16))
    signatures = [list(f.signatures) for f in (clips_numba._cut, clips_numba._pool)]
    ids, rows = np.ones((3, 2), np.int32), np.ones((3, 2), np.float16)
    ids.flags.writeable = rows.flags.writeable = is_writable
    cut = same_cut(ids, np.zeros((3, 2)), np.zeros(3, np.int64), np.array([0, 2]), 5, 1)
    same_pooled(rows, clips.row_bounds(cut.seconds, 1), cut.place)
    assert ids.flags.writeable == rows.flags.writeable == is_writable
    assert signatures == [list(f.signatures) for f in (clips_numba._cut, clips_numba._pool)]


_FULL_DISK = """
import logging, resource
import numpy as np
from swamp_dist.data import clips_numba
logging.basicConfig()
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
clips_numba.compile_now(np.dtype(np.int32), np.dtype(np.float16))
out = np.zeros((2, 2), np.float16)
rows = np.array([[1, -2], [3, -4]], np.float16)
clips_numba.pool_pairs(rows, np.array([[0, 2]]), np.array([0, 0]), out, 0)
print(out.tolist())
"""


def test_code_that_cannot_be_kept_on_a_full_disk_is_compiled_by_each_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", _FULL_DISK], capture_output=True, text=True, check=False)
    assert done.stdout == "[[3.0, -2.0], [3.0, -2.0]]\n", done.stderr
    assert done.stderr.count("compiled code for clips cannot be kept ([Errno 27] File too large") == 1
