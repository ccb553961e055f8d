import multiprocessing
import signal
import time

import numpy as np
import psutil
import pytest
import torch

from swamp_dist.config import DataSettings
from swamp_dist.data.entry import ShardError
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.loading_memory import resident_shards
from swamp_dist.data.manifest import load_manifest
from swamp_dist.data.stream import open_stream
from swamp_dist.data.writer import write_shards
from swamp_dist.errors import UserError
from swamp_dist.records import Sample
from tests.data.shard_sets import build, flip, members

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # a hint about few cores
BLOCKS = {"full_shuffle_below": 0, "shuffle_block": 8}


def _stream(manifest, world=1, rank=0, entries=8, pairs=1, lanes=4, seed=3, **settings):
    plan = plan_batches(entries, pairs, lanes, world, len(manifest.split("train")))
    data = DataSettings(shards=manifest.folder, a="a", b="b", **{"workers": 0, **settings})
    return open_stream(manifest, "train", data, plan, seed=seed, rank=rank)


def _content(batches):
    return [
        (x.step, x.ids.tolist(), x.entries.tolist(), x.a[:, 0].tolist(), x.b[:, 0].tolist()) for x in batches
    ]


def _steps(manifest, first=0, last=11, **settings):
    stream = _stream(manifest, **settings)
    content = _content(stream.batches(first, last))
    stream.close()
    return content


def test_a_batch_holds_true_pairs_and_says_which(tmp_path):
    manifest = build(tmp_path / "set")
    stream = _stream(manifest)
    assert stream.steps_per_epoch == 4
    assert stream.plan.pairs == 8
    for batch in stream.batches(0, 8):
        numbers = [int(key[-4:]) for key in stream.blend.keys(batch.ids)]
        assert torch.equal(batch.items, batch.ids)  # an entry is what is drawn
        assert batch.a.tolist() == [[n] * 3 for n in numbers]
        assert batch.b.tolist() == [[-n] * 3 for n in numbers]
        assert batch.entries.tolist() == list(range(8))
        assert batch.labels.tolist() == [n % 4 for n in numbers]
        assert (batch.ids.dtype, batch.entries.dtype, batch.a.dtype) == (
            torch.int64,
            torch.int64,
            torch.float32,
        )


@pytest.mark.parametrize("blocks", [{}, BLOCKS])
@pytest.mark.parametrize("world", [2, 4])
def test_the_global_batch_does_not_depend_on_the_world_size(tmp_path, world, blocks):
    manifest = build(tmp_path / "set")
    whole = _steps(manifest, **blocks)
    ranks = [_steps(manifest, world=world, rank=rank, **blocks) for rank in range(world)]
    for step, one in enumerate(whole):
        parts = [rank[step] for rank in ranks]
        assert [sum(column, []) for column in list(zip(*parts, strict=True))[1:]] == list(one[1:])


@pytest.mark.parametrize("blocks", [{}, BLOCKS])
def test_nor_on_how_shards_are_read(tmp_path, blocks):
    manifest = build(tmp_path / "set")
    expected = _steps(manifest, **blocks)
    assert len(expected) == 11
    for settings in ({"reading": "stream"}, {"cache": "memory"}, {"cache": "memory", "reading": "stream"}):
        assert _steps(manifest, **settings, **blocks) == expected


@pytest.mark.parametrize("reading", ["seek", "stream"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_nor_on_loader_processes(tmp_path, workers, reading):
    manifest = build(tmp_path / "set")
    expected = _steps(manifest, world=2, rank=1)
    assert _steps(manifest, world=2, rank=1, workers=workers, prefetch=2, reading=reading) == expected


def test_batches_by_class_are_the_same_however_they_are_read(tmp_path):
    manifest = build(tmp_path / "set")
    whole = _steps(manifest, class_group=2)
    classes = np.array([step[3] for step in whole[:4]]).reshape(-1, 2) % 4  # of an entry's number i: i mod 4
    assert (classes[:, 0] != classes[:, 1]).sum() <= 2  # 10, 9, 9 and 9 entries: three are left over
    assert whole != _steps(manifest)
    assert _steps(manifest, first=5, class_group=2, workers=2) == whole[5:]
    ranks = [_steps(manifest, class_group=2, world=2, rank=rank, cache="memory") for rank in range(2)]
    for step, one in enumerate(whole):
        parts = list(zip(*(rank[step] for rank in ranks), strict=True))[1:]
        assert [sum(column, []) for column in parts] == list(one[1:])


@pytest.mark.parametrize(("settings", "message"), [
    ({"class_group": 3}, "class_group = 3 does not divide entries = 256: choose 2 or 4"),
    ({"class_group": 2, "reading": "stream"}, "which reading = stream cannot serve"),
    ({"class_group": 2, "blend": {"x": {"shards": "x", "share": 1.0}}}, "class_group and blend are both"),
])  # fmt: skip
def test_batches_by_class_that_cannot_be_made_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DataSettings(shards="set", **settings)


def test_batches_by_class_need_classes_and_reads_at_random(tmp_path):
    manifest = build(tmp_path / "set")
    with pytest.raises(UserError, match=r"class_group = 2 .* has 1?\d+,?\d* bytes and those of .*_below = 0"):
        _stream(manifest, class_group=2, **BLOCKS)
    samples = [Sample(str(i), {name: np.ones(3, np.float32) for name in "ab"}) for i in range(16)]
    bare = write_shards({"train": samples}, tmp_path / "bare", "bare", {"kind": "test"}, 8)
    with pytest.raises(UserError, match=r"no entry of split 'train' of .*bare has a class label"):
        _stream(bare, class_group=2)


def test_one_shard_is_enough_for_many_ranks(tmp_path):
    manifest = build(tmp_path / "set", per_shard=100)
    ids = [_steps(manifest, world=4, rank=rank, last=4)[0][1] for rank in range(4)]
    assert len({i for part in ids for i in part}) == 8


@pytest.mark.parametrize("settings", [{}, {"workers": 2}, {"cache": "memory"}])
def test_any_step_can_be_the_first(tmp_path, settings):
    manifest = build(tmp_path / "set", items=(4, 1))
    expected = _steps(manifest, **settings)
    for first in (1, 3, 4, 5, 9):
        assert _steps(manifest, first=first, **settings) == expected[first:]
    assert _steps(manifest, first=4, last=4, **settings) == []


def test_an_entry_is_used_at_most_once_an_epoch_and_epochs_differ(tmp_path):
    content = _steps(build(tmp_path / "set"), last=8)
    epochs = [[i for step in content[e * 4 : e * 4 + 4] for i in step[1]] for e in range(2)]
    assert all(len(set(ids)) == 32 for ids in epochs)
    assert epochs[0] != epochs[1]
    assert set(epochs[0]) != set(epochs[1])


def test_the_seed_decides_the_order(tmp_path):
    manifest = build(tmp_path / "set")
    assert _steps(manifest, seed=4) != _steps(manifest, seed=3)


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_several_pairs_of_an_entry_use_different_items_of_it(tmp_path, cache):
    manifest = build(tmp_path / "set", items=(5, 1))
    for step, ids, entries, a, b in _steps(manifest, pairs=3, cache=cache, last=5):
        assert entries == [i for i in range(8) for _ in range(3)]
        assert ids == [ids[3 * i] for i in range(8) for _ in range(3)]
        numbers, items = np.divmod(np.round(np.array(a) * 100).astype(int), 100)
        assert (-numbers).tolist() == b
        assert all(len(set(items[i : i + 3])) == 3 for i in range(0, 24, 3)), step


def test_items_change_from_epoch_to_epoch(tmp_path):
    content = _steps(build(tmp_path / "set", {"train": 8}, items=(5, 1)), last=20)
    chosen = {}
    for _, ids, _, a, _ in content:
        for i, value in zip(ids, a, strict=True):
            chosen.setdefault(i, set()).add(value)
    assert sum(len(values) for values in chosen.values()) > 35  # of 8 entries x 5 items


def test_fields_with_equally_many_items_are_taken_in_step(tmp_path):
    manifest = build(tmp_path / "set", items=(5, 5))
    for _, _, _, a, b in _steps(manifest, pairs=2):
        assert a == [-x for x in b]


def test_item_choice_does_not_depend_on_ranks_or_workers(tmp_path):
    manifest = build(tmp_path / "set", items=(5, 1))
    whole = _steps(manifest, pairs=2, last=4)
    ranks = [_steps(manifest, pairs=2, last=4, world=2, rank=r, workers=r) for r in range(2)]
    assert [one[3] for one in whole] == [x[3] + y[3] for x, y in zip(*ranks, strict=True)]


@pytest.mark.parametrize("settings", [{}, {"workers": 2}, {"cache": "memory"}])
def test_training_random_state_is_not_touched(tmp_path, settings):
    manifest = build(tmp_path / "set")
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    _steps(manifest, **settings)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


@pytest.mark.parametrize("settings", [{}, {"workers": 2}, {"cache": "memory"}, {"reading": "stream"}])
def test_damage_stops_the_stream_with_one_screen_that_names_it(tmp_path, settings):
    manifest = build(tmp_path / "set")
    shard = tmp_path / "set" / "train-000002.tar"
    name, (_, stop) = next((n, r) for n, r in members(shard).items() if n.endswith(".a.npy"))
    flip(shard, stop - 2)
    with pytest.raises(ShardError) as refused:
        _steps(manifest, last=12, **settings)
    assert f"train-000002.tar, entry {name[:8]!r}: field 'a'" in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_loader_processes_ignore_the_signals_of_a_job(tmp_path, monkeypatch):
    manifest = build(tmp_path / "set")
    stream = _stream(manifest, workers=1)
    load = stream._steps.load

    def signalled(step):
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.raise_signal(number)
        return load(step)

    monkeypatch.setattr(stream._steps, "load", signalled)
    assert [batch.step for batch in stream.batches(0, 5)] == list(range(5))


def test_a_stream_may_be_left_early(tmp_path):
    stream = _stream(build(tmp_path / "set"), workers=2)
    for batch in stream.batches(0, 1000):
        if batch.step == 3:
            break
    del batch
    stream.close()
    assert [x.step for x in stream.batches(4, 6)] == [4, 5]


def test_half_precision_fields_arrive_as_float32(tmp_path):
    from swamp_dist.data.writer import write_shards
    from swamp_dist.records import Sample

    rows = [
        Sample(f"k{i}", {"a": np.full(2, i, np.float16), "b": np.full(2, i, np.float64)}) for i in range(4)
    ]
    manifest = write_shards({"train": rows}, tmp_path / "set", "half", {})
    batch = next(_stream(manifest, entries=4).batches(0, 1))
    assert (batch.a.dtype, batch.b.dtype) == (torch.float32, torch.float64)
    assert batch.a.tolist() == batch.b.tolist()


def test_unknown_fields_are_refused(tmp_path):
    manifest = build(tmp_path / "set")
    plan = plan_batches(8, 1, 4, 1, 37)
    with pytest.raises(UserError, match="no field 'text'"):
        open_stream(
            manifest, "train", DataSettings(shards=manifest.folder, a="text", b="b"), plan, seed=0, rank=0
        )


def _shards_read(manifest, plan, monkeypatch, resident):
    monkeypatch.setattr("swamp_dist.data.stream.resident_shards", lambda *_: resident)
    data = DataSettings(
        shards=manifest.folder,
        a="a",
        b="b",
        workers=0,
        reading="stream",
        full_shuffle_below=0,
        shuffle_block=25,
    )
    stream = open_stream(manifest, "train", data, plan, seed=0, rank=0)
    reader = stream._steps.parts[0].reader
    reads, read = [], reader._stream
    monkeypatch.setattr(reader, "_stream", lambda shard: reads.append(shard) or read(shard))
    list(stream.batches(0, 50))
    return len(reads)


def test_streaming_holds_as_many_shards_as_the_lanes_and_blocks_need(tmp_path, monkeypatch):
    manifest = build(tmp_path / "set", {"train": 400}, per_shard=10)
    split, plan = manifest.split("train"), plan_batches(8, 1, 2, 1, 400)
    assert resident_shards(split, plan.lanes, full_shuffle=True, shuffle_block=25) == 40
    assert resident_shards(split, plan.lanes, full_shuffle=False, shuffle_block=25) == 8
    blocks = 400 // 25
    assert _shards_read(manifest, plan, monkeypatch, 8) <= 40 + blocks + 2  # a block's end may cut a shard
    assert _shards_read(manifest, plan, monkeypatch, 1) > 150


def _read_and_wait(folder, told):
    stream = _stream(load_manifest(folder), workers=2)
    batches = stream.batches(0, 11)
    next(batches)
    told.send([child.pid for child in multiprocessing.active_children()])
    time.sleep(60)


def test_loader_processes_end_at_once_where_their_rank_is_killed(tmp_path):
    build(tmp_path / "set")
    here, there = multiprocessing.Pipe()
    rank = multiprocessing.get_context("fork").Process(target=_read_and_wait, args=(tmp_path / "set", there))
    rank.start()
    loaders = [psutil.Process(pid) for pid in here.recv()]
    rank.kill()
    assert len(loaders) == 2
    # Torch's own watch would look after 5 s. Where nobody reaps orphans they stay as zombies.
    wait_for(lambda: all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in loaders), 3)


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
