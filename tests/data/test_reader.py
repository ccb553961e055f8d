import bz2
import gc
import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
import tracemalloc
from multiprocessing import get_context

import numpy as np
import pytest
import xxhash

from swamp_dist.data import shard_files
from swamp_dist.data.entry import ShardError
from swamp_dist.data.manifest import Manifest, ManifestRecord
from swamp_dist.data.stream_reader import StreamReader
from swamp_dist.data.verify import verify_shards
from swamp_dist.errors import UserError
from tests.data.shard_sets import build, flip, members, open_reader, rename, rewrite, swap

KINDS = [
    {"reading": "seek"},
    {"reading": "stream", "resident_shards": 1},
    {"reading": "seek", "payloads": False},
    {"reading": "seek", "cache": "memory"},
    {"reading": "stream", "cache": "memory"},
]
DIRECT = KINDS[:3]


def _numbers(entries):
    return [int(entry.key[-4:]) for entry in entries]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_shard", [10, 100])
def test_every_reader_gives_the_entry_that_was_asked_for(tmp_path, kind, per_shard):
    manifest = build(tmp_path / "set", per_shard=per_shard)
    reader = open_reader(manifest, "train", ("a", "b"), **kind)
    indices = [36, 0, 17, 17, 5, 30]
    entries = reader.read(indices)
    assert [entry.index for entry in entries] == indices
    assert [entry.key for entry in entries] == manifest.split("train").keys(indices)
    for entry, number in zip(entries, _numbers(entries), strict=True):
        assert entry.label == number % 4
        assert entry.text == {"a": f"caption {number}"}
        assert entry.arrays["a"].tolist() == [number] * 3
        assert entry.arrays["b"].tolist() == [-number] * 3
        assert entry.arrays["a"].dtype == np.float32
    assert reader.stack("b", indices)[:, 1].tolist() == [-n for n in _numbers(entries)]
    assert sorted(_numbers(reader.read(range(37)))) == list(range(37))
    reader.close()


@pytest.mark.parametrize("kind", KINDS)
def test_fields_with_several_items(tmp_path, kind):
    reader = open_reader(build(tmp_path / "set", items=(4, 1)), "train", ("a",), **kind)
    entries = reader.read([3, 9])
    assert [entry.arrays["a"].shape for entry in entries] == [(4, 3), (4, 3)]
    assert entries[0].arrays.keys() == {"a"}
    assert reader.stack("a", [3, 9]).shape == (2, 4, 3)
    column = reader.columns(np.array([3, 9]))["a"]
    assert column.count.tolist() == [4, 4]
    assert column.rows[column.first[1] + 2].tolist() == entries[1].arrays["a"][2].tolist()


def test_a_reader_refuses_unknown_names(tmp_path):
    manifest = build(tmp_path / "set")
    with pytest.raises(UserError, match="no field 'c'"):
        open_reader(manifest, "train", ("c",))
    with pytest.raises(UserError, match="no split 'trian'"):
        open_reader(manifest, "trian", ("a",))


@pytest.fixture
def damaged(tmp_path):
    """A set whose manifest was read before the damage, and its first shard."""
    return build(tmp_path / "set", seed=None), tmp_path / "set" / "train-000000.tar"


def _read_all(manifest, kind):
    return open_reader(manifest, "train", ("a", "b"), **kind).read(range(37))


def _cut_between_entries(shard):
    shard.write_bytes(shard.read_bytes()[: members(shard)["key-0004.entry.json"][0] - 512])


def _cut_between_members(shard):
    shard.write_bytes(shard.read_bytes()[: members(shard)["key-0004.b.npy"][0] - 512])


def _cut_in_a_header(shard):
    shard.write_bytes(shard.read_bytes()[: members(shard)["key-0004.a.npy"][0] - 300])


def _cut_in_a_field(shard):
    shard.write_bytes(shard.read_bytes()[: members(shard)["key-0004.a.npy"][0] + 70])


def _empty(shard):
    shard.write_bytes(b"")


def _flip_a_value(shard):
    flip(shard, members(shard)["key-0004.a.npy"][1] - 1)


def _flip_a_header(shard):
    flip(shard, members(shard)["key-0004.a.npy"][0] - 512 + 3)


def _flip_a_checksum(shard):
    flip(shard, members(shard)["key-0004.a.npy"][0] - 512 + 150)


def _swap_fields(shard):
    swap(shard, "key-0004.a.npy", "key-0007.a.npy")


def _swap_headers(shard):
    rename(shard, "key-0004.entry.json", "key-0007.entry.json")


def _swap_json(shard):
    header = {name: shard.read_bytes()[slice(*members(shard)[name])] for name in _JSON}
    rewrite(
        shard,
        lambda name, payload: (name, header[_JSON[not _JSON.index(name)]] if name in _JSON else payload),
    )


_JSON = ("key-0004.entry.json", "key-0007.entry.json")


def _remove(shard):
    shard.unlink()


def _exchange_shards(shard):
    other = shard.with_name("train-000001.tar")
    shutil.move(other, shard.with_suffix(".x"))
    shutil.move(shard, other)
    shutil.move(shard.with_suffix(".x"), shard)


@pytest.mark.parametrize("kind", DIRECT)
@pytest.mark.parametrize(
    "damage",
    [
        _cut_between_entries, _cut_between_members, _cut_in_a_header, _cut_in_a_field, _empty, _flip_a_value,
        _flip_a_header, _flip_a_checksum, _swap_fields, _swap_headers, _swap_json, _remove, _exchange_shards,
    ],
)  # fmt: skip
def test_damage_is_a_named_error_and_never_a_shorter_split_or_a_wrong_pair(damaged, damage, kind):
    manifest, shard = damaged
    assert len(_read_all(manifest, kind)) == 37
    damage(shard)
    with pytest.raises(ShardError, match=r"train-00000[01]\.tar"):
        _read_all(manifest, kind)


@pytest.mark.parametrize("kind", DIRECT)
def test_mispaired_fields_name_entry_and_field(damaged, kind):
    manifest, shard = damaged
    _swap_fields(shard)
    with pytest.raises(ShardError, match=r"train-000000\.tar, entry 'key-0004': field 'a' does not belong"):
        _read_all(manifest, kind)


@pytest.mark.parametrize("payloads", [True, False])
def test_every_flipped_bit_of_a_field_or_header_is_seen(damaged, payloads):
    manifest, shard = damaged
    sound, (start, stop) = shard.read_bytes(), members(shard)["key-0002.b.npy"]
    for byte in [
        *range(start - 512, start - 512 + 8),
        *range(start - 512 + 124, start - 350, 3),
        *range(start, stop, 7),
    ]:
        flip(shard, byte, byte % 8)
        with pytest.raises(ShardError, match="key-0002"):
            open_reader(manifest, "train", ("a", "b"), payloads).read([2])
        shard.write_bytes(sound)


@pytest.mark.parametrize("kind", DIRECT)
def test_members_that_change_places_are_seen(damaged, kind):
    manifest, shard = damaged
    rename(shard, "key-0004.a.npy", "key-0004.b.npy")
    with pytest.raises(ShardError, match="entry 'key-0004': field 'a' does not belong"):
        _read_all(manifest, kind)


def _with_checksum(payload, field, of):
    header = json.loads(payload)
    header["xxh3"][field] = xxhash.xxh3_64_hexdigest(of)
    return json.dumps(header).encode()


@pytest.mark.parametrize("kind", DIRECT)
@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(4, np.float32), r"field 'a': expected float32 \(3\), found float32 \(4,\)"),
        (np.zeros(3, np.int32), r"field 'a': expected float32 \(3\), found int32"),
        (np.array([None, 1, 2], object), "not a plain npy array"),
    ],
)
def test_a_field_of_another_shape_dtype_or_kind_is_named_even_with_a_good_checksum(
    damaged, kind, array, words
):
    manifest, shard = damaged
    buffer = io.BytesIO()
    np.save(buffer, array)
    payload = buffer.getvalue()

    def change(name, old):
        if name == "key-0000.entry.json":
            return name, _with_checksum(old, "a", payload)
        return (name, payload) if name == "key-0000.a.npy" else (name, old)

    rewrite(shard, change)
    with pytest.raises(ShardError, match=r"train-000000\.tar, entry 'key-0000': " + ".*" + words):
        _read_all(manifest, kind)


@pytest.mark.parametrize("kind", DIRECT)
def test_links_and_huge_members_are_refused_from_their_header(damaged, kind):
    manifest, shard = damaged
    for change, words in (
        (lambda info: setattr(info, "type", tarfile.SYMTYPE), "not a plain file"),
        (lambda info: setattr(info, "size", 2**33 - 1), "claims 8589934591 bytes"),
        (lambda info: setattr(info, "name", "../key-0000.a.npy"), "is not KEY.FIELD.npy"),
    ):
        data = bytearray(shard.read_bytes())
        start = members(shard)["key-0000.a.npy"][0] - 512
        info = tarfile.TarInfo.frombuf(bytes(data[start : start + 512]), "ascii", "strict")
        change(info)
        data[start : start + 512] = info.tobuf(tarfile.USTAR_FORMAT)
        sound = shard.read_bytes()
        shard.write_bytes(data)
        with pytest.raises(ShardError, match=words):
            open_reader(manifest, "train", ("a",), **kind).read([0])
        shard.write_bytes(sound)


def _named_in_the_manifest(folder, shard):
    """The set as it is where its manifest was written of the shard as it stands."""
    content = json.loads((folder / "manifest.json").read_text())
    listed = content["splits"]["train"]
    listed["shards"][0] |= {
        "bytes": shard.stat().st_size, "sha256": hashlib.sha256(shard.read_bytes()).hexdigest()
    }  # fmt: skip
    record = ManifestRecord.model_validate(content)
    record = record.model_copy(update={"hash": record.content_hash()})
    return Manifest(folder, record)


@pytest.mark.parametrize("kind", DIRECT)
@pytest.mark.parametrize("module", [gzip, bz2])
def test_compressed_shards_are_refused_and_not_unpacked(damaged, kind, module):
    _, shard = damaged
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("key-0000.a.npy")
        info.size = 2**23
        tar.addfile(info, io.BytesIO(np.random.default_rng(0).bytes(2000) + bytes(info.size)))
    shard.write_bytes(module.compress(shard.read_bytes()))
    manifest = _named_in_the_manifest(shard.parent, shard)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"train-000000\.tar|train\.index\.npy"):
            _read_all(manifest, kind)
        with pytest.raises(ShardError, match=r"train-000000\.tar: the file is compressed"):
            StreamReader(manifest.split("train"), manifest.fields, ("a",), 1)._stream(0)
        assert any("the file is compressed" in p.reason for p in verify_shards(shard.parent))
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_a_stream_reads_no_more_than_the_manifest_says(damaged):
    manifest, shard = damaged
    with shard.open("r+b") as file:
        file.truncate(2**30)  # zeros that belong to no entry
    tracemalloc.start()
    try:
        with pytest.raises(ShardError, match=r"train-000000\.tar: the file goes on after byte 40960"):
            _read_all(manifest, DIRECT[1])
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", DIRECT)
def test_entries_with_a_header_that_nests_without_end_are_named(damaged, kind):
    manifest, shard = damaged
    where = slice(*members(shard)["key-0004.entry.json"])
    data = bytearray(shard.read_bytes())
    data[where] = b"[" * (where.stop - where.start)
    shard.write_bytes(data)
    with pytest.raises(ShardError, match="entry 'key-0004': entry.json is missing or cannot be read"):
        _read_all(manifest, kind)


def test_no_more_files_stay_open_than_the_limit(tmp_path, monkeypatch):
    limits = (shard_files.RESERVE, shard_files.RESERVE)
    monkeypatch.setattr(shard_files.resource, "getrlimit", lambda _: limits)
    reader = open_reader(build(tmp_path / "set"), "train", ("a",))
    reader.split.keys([0])  # the index stays mapped
    before = len(os.listdir("/proc/self/fd"))
    reader.read(range(37))
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    reader.close()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert len(reader.read(range(37))) == 37
    reader.close()


def test_a_forgotten_reader_leaves_no_files_open(tmp_path):
    manifest = build(tmp_path / "set")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        open_reader(manifest, "train", ("a",)).read(range(37))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def _first_keys(reader, pipe):
    pipe.send([entry.key for entry in reader.read([0, 36])])


def test_a_reader_with_open_files_works_in_forked_processes_and_after_pickling(tmp_path):
    for kind in DIRECT:
        reader = open_reader(build(tmp_path / "set"), "train", ("a",), **kind)
        expected = [entry.key for entry in reader.read([0, 36])]
        ours, theirs = get_context("fork").Pipe()
        process = get_context("fork").Process(target=_first_keys, args=(reader, theirs))
        process.start()
        assert ours.poll(20)
        assert ours.recv() == expected
        process.join(20)
        assert [entry.key for entry in reader.read([0, 36])] == expected
        assert [entry.key for entry in pickle.loads(pickle.dumps(reader)).read([0, 36])] == expected


def test_streaming_reads_each_shard_once_when_all_are_resident(tmp_path, monkeypatch):
    reader = open_reader(build(tmp_path / "set"), "train", ("a",), reading="stream", resident_shards=4)
    read = []
    stream = reader._stream
    monkeypatch.setattr(reader, "_stream", lambda shard: read.append(shard) or stream(shard))
    for _ in range(3):
        reader.read([36, 0, 12, 25, 1])
    assert sorted(read) == [0, 1, 2, 3]
