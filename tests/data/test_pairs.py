"""Clips and words in the stream: against the published rules on the raw videos, whoever reads them."""

from __future__ import annotations

import importlib
import logging
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from swamp_dist.config import ClipSettings, DataSettings
from swamp_dist.data.clips import caption_choice
from swamp_dist.data.entry import ShardError
from swamp_dist.data.inputs import input_specs
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.pairs import pair_maker
from swamp_dist.data.reader import open_reader
from swamp_dist.data.stream import open_stream
from swamp_dist.data.writer import write_shards
from swamp_dist.errors import UserError
from swamp_dist.records import InputSpec, Words
from tests.data.shard_sets import flip, members
from tests.data.test_clips import grown_slowly
from tests.data.video_sets import (
    DIM,
    FIELDS,
    RATES,
    WIDTHS,
    W,
    add_words,
    build_pooled,
    build_videos,
    captions,
    vectors,
    video,
)
from tests.numba_faults import FAULT

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # a hint about few cores
SEED, PAIRS, ENTRIES, CLIPS = 3, 5, 8, ClipSettings()


def _stream(manifest, clips=CLIPS, world=1, rank=0, a="text", b="video", **settings):
    plan = plan_batches(ENTRIES, PAIRS, 4, world, len(manifest.split("train")))
    data = DataSettings(shards=manifest.folder, a=a, b=b, clips=clips, **{"workers": 0, **settings})
    return open_stream(manifest, "train", data, plan, seed=SEED, rank=rank)


def _literal_pair(number, caption, clips):
    """The published loader's (W, DIM) word vectors and pooled features of one pair, from the raw video."""
    sample, said = video(number), captions(number)
    times = sample.fields["times"].astype(np.float64).tolist()
    words, start, end = grown_slowly(times, said, caption, clips.min_seconds, clips.min_words)
    known = [vectors()[int(word[1:]) - 1] for word in words if word != "unknown"][:W]
    text = np.zeros((W, DIM), np.float32)
    text[: len(known)] = np.array(known).reshape(-1, DIM)
    pooled = []
    for name, width in WIDTHS.items():
        part = sample.fields[name][int(start * RATES[name]) : int(end * RATES[name]) + 1].astype(np.float32)
        pooled.append(part.max(axis=0) if len(part) else np.zeros(width, np.float32))
    return text, np.concatenate(pooled)


@pytest.mark.parametrize(
    "clips",
    [
        ClipSettings(),
        ClipSettings(min_seconds=0, min_words=12),
        ClipSettings(min_seconds=2, min_words=8, replace=False),
    ],
    ids=["as published", "by words", "by both, without replacement"],
)
def test_pairs_are_those_of_the_published_rules(tmp_path, clips):
    stream = _stream(build_videos(tmp_path / "set"), clips)
    empty = 0
    for batch in stream.batches(0, 4):
        assert isinstance(batch.a, Words)
        assert (batch.a.ids.shape, batch.b.shape) == ((ENTRIES * PAIRS, W), (ENTRIES * PAIRS, 16))
        assert (batch.a.ids.dtype, batch.a.vectors.dtype, batch.b.dtype) == (
            torch.int64,
            torch.float32,
            torch.float32,
        )
        text = batch.a.vectors[batch.a.ids].numpy()
        epoch = batch.step // stream.steps_per_epoch
        for i, key in enumerate(stream.blend.keys(batch.ids[::PAIRS])):
            number = int(key[-3:])
            chosen = caption_choice(SEED, epoch, key, len(captions(number)), PAIRS, clips.replace)
            assert batch.items is not None
            items = batch.items[i * PAIRS : (i + 1) * PAIRS]  # one number for one caption of one video
            assert items.tolist() == [int(batch.ids[i * PAIRS]) + 2**40 * c for c in chosen.tolist()]
            for j, caption in enumerate(chosen.tolist()):
                wanted_text, wanted_pooled = _literal_pair(number, caption, clips)
                assert np.array_equal(text[i * PAIRS + j], wanted_text)
                assert np.array_equal(batch.b[i * PAIRS + j].numpy(), wanted_pooled)
                empty += not wanted_pooled.any()
    assert empty > 0  # clips past the end of the features were among them


def test_only_the_words_of_the_batch_are_sent(tmp_path):
    batch = next(_stream(build_videos(tmp_path / "set")).batches(0, 1))
    assert len(batch.a.vectors) == len(set(batch.a.ids.flatten().tolist()) | {0})


def _content(batches):
    """Everything in a batch but where a rank's words stand in its own vectors."""
    return [
        (
            x.step,
            x.ids.tolist(),
            x.items.tolist(),
            x.entries.tolist(),
            x.a.vectors[x.a.ids].tolist(),
            x.b.tolist(),
        )
        for x in batches
    ]


def _steps(manifest, **settings):
    stream = _stream(manifest, **settings)
    content = _content(stream.batches(0, 5))
    stream.close()
    return content


@pytest.mark.parametrize("kind", ["videos", "pooled"])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_batches_do_not_depend_on_ranks_and_loader_processes(tmp_path, world, kind):
    videos = kind == "videos"
    manifest = build_videos(tmp_path / "set") if videos else build_pooled(tmp_path / "set", several=True)
    clips = ClipSettings() if videos else None
    whole = _steps(manifest, clips=clips)
    ranks = [_steps(manifest, clips=clips, world=world, rank=r, workers=(r + 1) % 4) for r in range(world)]
    for step, one in enumerate(whole):
        parts = [rank[step] for rank in ranks]
        assert [sum(column, []) for column in list(zip(*parts, strict=True))[1:]] == list(one[1:])


@pytest.mark.parametrize("settings", [{"reading": "stream"}, {"cache": "memory"}, {"workers": 3}])
def test_nor_on_how_shards_are_read(tmp_path, settings):
    manifest = build_videos(tmp_path / "set")
    assert _steps(manifest, **settings) == _steps(manifest)


def test_either_modality_can_be_the_features(tmp_path):
    manifest = build_videos(tmp_path / "set")
    usual = next(_stream(manifest).batches(0, 1))
    turned = next(_stream(manifest, ClipSettings(on="a"), a="video", b="text").batches(0, 1))
    assert torch.equal(turned.a, usual.b)
    assert torch.equal(turned.b.ids, usual.a.ids)


def test_one_of_several_captions_of_a_single_clip_is_chosen(tmp_path):
    manifest = build_pooled(tmp_path / "set", several=True)
    for batch in _stream(manifest, clips=None).batches(0, 3):
        text = batch.a.vectors[batch.a.ids].numpy()
        for key, found in zip(_stream(manifest, clips=None).blend.keys(batch.ids), text, strict=True):
            number = int(key[-3:])
            ids = video(0 if number % 3 == 0 else number).fields["text"]
            table = np.concatenate([np.zeros((1, DIM), np.float32), vectors()])
            assert any(np.array_equal(found, table[row]) for row in ids)


def test_what_encoders_are_built_for(tmp_path):
    videos, pooled = build_videos(tmp_path / "videos"), build_pooled(tmp_path / "pooled")
    with_clips = DataSettings(shards=videos.folder, clips=ClipSettings())
    words = InputSpec((W,), DIM)
    assert input_specs(videos, with_clips) == (words, InputSpec((16,)))
    turned = DataSettings(shards=videos.folder, a="v", b="text", clips=ClipSettings(on="a"))
    assert input_specs(videos, turned) == (InputSpec((16,)), words)
    assert input_specs(pooled, DataSettings(shards=pooled.folder)) == (words, InputSpec((16,)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"on": "a"}, r"field 'video' \(data.b\) of .* holds no word ids"),
        ({"times": "text"}, r"field 'text' of .*: expected floats \(items, 2\) start and end"),
        ({"parts": {"text": 1.0}}, r"field 'text' of .*: expected floats \(items, values\)"),
        ({"parts": {"features": 1.0}}, "no field 'features' .* Did you mean 'features_2d'"),
        (
            {"parts": {"times": 1.0, "features_2d": 1.0}},
            "one dtype, found times float32, features_2d float16",
        ),
    ],
)
def test_settings_that_the_set_does_not_fit_are_refused(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        _stream(build_videos(tmp_path / "set"), ClipSettings(**change))
    with pytest.raises(ValueError, match="names no features"):
        ClipSettings(parts={})


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_in_features_is_named(tmp_path, workers):
    manifest = build_videos(tmp_path / "set")
    shard = tmp_path / "set" / "train-000001.tar"
    name, (start, stop) = next((n, r) for n, r in members(shard).items() if n.endswith(".features_3d.npy"))
    flip(shard, (start + stop) // 2)
    with pytest.raises(ShardError, match=f"train-000001.tar, entry '{name[:5]}': field 'features_3d'"):
        list(_stream(manifest, workers=workers).batches(0, 6))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_word_table_is_named(tmp_path, workers):
    manifest = build_videos(tmp_path / "set")
    (tmp_path / "set" / "words.npy").unlink()
    with pytest.raises(UserError, match=r"words\.npy: cannot be read as a table") as refused:
        next(_stream(manifest, workers=workers).batches(0, 1))
    assert "Traceback" not in str(refused.value)


def _bad_times(tmp_path, times):
    samples = [video(i) for i in range(8)]
    samples[2] = replace(samples[2], fields={**samples[2].fields, "times": times(samples[2].fields["times"])})
    return add_words(write_shards({"train": samples}, tmp_path / "set", "x", {}, 5, 0, FIELDS), ("text",))


@pytest.mark.parametrize("change", [lambda t: -t, lambda t: np.concatenate([t, t])], ids=["negative", "many"])
def test_times_that_do_not_fit_the_captions_are_named(tmp_path, change):
    manifest = _bad_times(tmp_path, change)
    with pytest.raises(ShardError, match="entry 'v-002': field 'times': expected a start and an end"):
        next(_stream(manifest).batches(0, 1))


def test_words_are_counted_on_as_many_captions_as_there_are(tmp_path):
    samples = [replace(video(i), text={"captions": "one\n" * 30}) for i in range(8)]
    manifest = write_shards({"train": samples}, tmp_path / "set", "x", {}, 5, 0, FIELDS)
    manifest = add_words(manifest, ("text",))
    with pytest.raises(ShardError, match="min_words counts the words of `captions`.*found 31"):
        next(_stream(manifest, ClipSettings(min_words=1)).batches(0, 1))
    assert len(list(_stream(manifest).batches(0, 1))) == 1


# -- compiled code ---------------------------------------------------------------------------------


def _videos(folder, dtype):
    samples = [video(i) for i in range(21)]
    samples = [
        replace(x, fields=x.fields | {name: x.fields[name].astype(dtype) for name in WIDTHS}) for x in samples
    ]
    return add_words(write_shards({"train": samples}, folder, "x", {}, 5, 0, FIELDS), ("text",))


def _made(manifest, clips):
    maker = pair_maker(manifest, DataSettings(shards=manifest.folder, clips=clips), SEED)
    reader = open_reader(manifest, "train", maker.fields)
    made = [maker.make(reader, np.arange(21), epoch, 9) for epoch in range(3)]
    reader.close()
    return maker, [(x.items.tobytes(), *map(_bytes, (*x.a, x.b))) for x in made]


def _bytes(rows):
    return rows.dtype, rows.shape, rows.numpy().tobytes()


CLIPS_OF_ALL_KINDS = [CLIPS, ClipSettings(min_seconds=0, min_words=12), ClipSettings(min_words=8)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_compiled_code_makes_the_same_pairs_bit_by_bit(tmp_path, dtype, request, caplog):
    manifest = _videos(tmp_path / "set", dtype)
    with caplog.at_level(logging.INFO):
        makers, compiled = zip(*(_made(manifest, clips) for clips in CLIPS_OF_ALL_KINDS), strict=True)
        assert all(maker.is_compiled for maker in makers)
        assert caplog.messages == []
        request.getfixturevalue("without_numba")
        makers, plain = zip(*(_made(manifest, clips) for clips in CLIPS_OF_ALL_KINDS), strict=True)
    assert not any(maker.is_compiled for maker in makers)
    assert plain == compiled
    (line,) = caplog.messages  # for all sets of a process
    assert line == (
        "clips are cut by numpy, at about two thirds of the speed: numba is not installed "
        "(pip install 'swamp-dist[fast]')"
    )


@pytest.mark.usefixtures("broken_numba")
def test_a_numba_that_cannot_be_imported_is_told_with_its_reason(tmp_path, caplog):
    manifest = build_videos(tmp_path / "set")
    with caplog.at_level(logging.INFO, "swamp_dist.compiled"):
        assert len(list(_stream(manifest).batches(0, 1))) == 1
    assert [line.partition(": ")[2] for line in caplog.messages] == [f"numba {FAULT}"]


@pytest.mark.usefixtures("looks_again")
def test_sets_without_clips_do_not_import_numba(tmp_path):
    next(_stream(build_pooled(tmp_path / "pooled"), clips=None).batches(0, 1))
    assert "numba" not in sys.modules
    next(_stream(build_videos(tmp_path / "videos")).batches(0, 1))
    assert "numba" in sys.modules


@pytest.mark.usefixtures("looks_again")
def test_a_maker_is_compiled_where_it_is_made_and_a_pickled_one_makes_the_same(tmp_path):
    """Loader processes are forked from this one, or get a pickled copy."""
    manifest = build_videos(tmp_path / "set")
    maker = pair_maker(manifest, DataSettings(shards=manifest.folder, clips=CLIPS), SEED)
    program = importlib.import_module("swamp_dist.data.clips_numba")
    functions = program._cut, program._pool
    known = [list(each.signatures) for each in functions]
    assert all(known)
    reader = open_reader(manifest, "train", maker.fields)
    copies = maker, pickle.loads(pickle.dumps(maker))
    first, second = (copy.make(reader, np.arange(8), 0, PAIRS) for copy in copies)
    assert copies[1].is_compiled
    assert _bytes(first.b) == _bytes(second.b)
    assert _bytes(first.a.ids) == _bytes(second.a.ids)
    assert [list(each.signatures) for each in functions] == known
