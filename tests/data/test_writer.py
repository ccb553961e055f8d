import json
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import webdataset

from swamp_dist.data.manifest import load_manifest
from swamp_dist.data.writer import write_shards
from swamp_dist.errors import UserError
from tests.data.shard_sets import build, members, sample


def test_plain_webdataset_reads_the_shards(tmp_path):
    build(tmp_path / "set", {"train": 25})
    urls = [str(path) for path in sorted((tmp_path / "set").glob("train-*.tar"))]
    read = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert sorted(entry["__key__"] for entry in read) == [sample(i).key for i in range(25)]
    for entry in read:
        number = int(entry["__key__"][-4:])
        assert entry["a.npy"].tolist() == [number] * 3
        assert entry["b.npy"].tolist() == [-number] * 3
        assert entry["entry.json"]["label"] == number % 4
        assert entry["entry.json"]["text"] == {"a": f"caption {number}"}


def test_the_json_comes_first_and_holds_every_checksum(tmp_path):
    build(tmp_path / "set", {"train": 1})
    path = tmp_path / "set" / "train-000000.tar"
    where = members(path)
    assert list(where) == ["key-0000.entry.json", "key-0000.a.npy", "key-0000.b.npy"]
    header = json.loads(path.read_bytes()[slice(*where["key-0000.entry.json"])])
    assert header["xxh3"].keys() == {"a", "b"}


def test_entries_are_shuffled_with_the_seed_and_written_as_they_come_without_one(tmp_path):
    def order(folder, seed):
        return build(tmp_path / folder, seed=seed).split("train").keys(range(37))

    unshuffled = order("none", None)
    assert unshuffled == sorted(unshuffled)
    assert order("zero", 0) != unshuffled
    assert order("zero", 0) != order("one", 1)


def test_an_equal_set_is_left_alone_and_another_is_not_overwritten(tmp_path):
    first = build(tmp_path / "set")
    inode = (tmp_path / "set").stat().st_ino
    assert build(tmp_path / "set").hash == first.hash
    assert (tmp_path / "set").stat().st_ino == inode
    with pytest.raises(UserError, match=r"entries_per_shard: found 10, wanted 20"):
        build(tmp_path / "set", per_shard=20)
    with pytest.raises(UserError, match=r"source\.kind: found 'test', wanted 'other'"):
        write_shards({"train": [sample(0)]}, tmp_path / "set", "tiny", {"kind": "other"}, 10)
    assert load_manifest(tmp_path / "set").hash == first.hash


def test_force_replaces_a_set_but_never_a_folder_that_is_none(tmp_path):
    build(tmp_path / "set")
    write_shards({"train": [sample(0)]}, tmp_path / "set", "tiny", {"kind": "other"}, force=True)
    assert len(load_manifest(tmp_path / "set").split("train")) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not a shard set"):
        write_shards({"train": [sample(0)]}, tmp_path / "mine", "tiny", {}, force=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name[0] != ".") == ["mine", "set"]


def test_a_build_that_fails_or_was_killed_leaves_nothing_that_looks_finished(tmp_path):
    def broken():
        yield from (sample(i) for i in range(25))
        raise RuntimeError("source broke")

    with pytest.raises(RuntimeError, match="source broke"):
        write_shards({"train": broken()}, tmp_path / "set", "tiny", {}, 10, None)
    assert not (tmp_path / "set").exists()
    (tmp_path / ".set.building").mkdir()  # as a killed build leaves it
    (tmp_path / ".set.building" / "train-000000.tar").write_bytes(b"half")
    assert len(build(tmp_path / "set").split("train")) == 37
    assert not (tmp_path / ".set.building").exists()


def _with(number, **fields):
    return replace(sample(number), fields=dict(sample(number).fields) | fields)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (
            _with(1, a=np.zeros(4, np.float32)),
            r"entry 'key-0001', field 'a': expected float32 \(3\).*float32 \(4,\)",
        ),
        (_with(1, b=np.zeros(3)), r"field 'b': expected float32 \(3\).*float64"),
        (_with(1, a=np.array([0, np.nan, np.inf], np.float32)), r"field 'a': 2 values are not finite"),
        (_with(1, c=np.zeros(3, np.float32)), r"fields \['a', 'b', 'c'\], the first entry has \['a', 'b'\]"),
        (sample(0), "two entries have the key 'key-0000'"),
        (replace(sample(1), key="../up"), r"'\.\./up' is not a safe name"),
        (replace(sample(1), key="two.dots"), "not a safe name"),
        (replace(sample(1), key="k" * 95), "a member name may have 100 characters"),
        (replace(sample(1), label=-2), "label -2"),
    ],
)
def test_a_sample_that_cannot_be_stored_is_named(tmp_path, bad, words):
    with pytest.raises(UserError, match=words):
        write_shards({"train": [sample(0), bad]}, tmp_path / "set", "tiny", {}, shuffle_seed=None)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ({}, "no splits"),
        ({"train": []}, "split 'train' is empty"),
        ({"a/b": [sample(0)]}, "split 'a/b' is not a safe name"),
        ({"train": [replace(sample(0), fields={"A": np.zeros(2)})]}, "field 'A' is not a safe name"),
        ({"train": [replace(sample(0), fields={"a": np.array(["x"], object)})]}, "cannot be stored"),
        ({"train": [replace(sample(0), fields={"a": np.zeros(2, ">f4")})]}, "cannot be stored"),
        ({"train": [replace(sample(0), fields={"a": np.zeros((2, 0), "f4")})]}, "holds no values"),
    ],
)
def test_a_set_that_cannot_be_stored_is_refused(tmp_path, samples, words):
    with pytest.raises(UserError, match=words):
        write_shards(samples, tmp_path / "set", "tiny", {})


def _build_and_hash(folder, pipe):
    pipe.send(build(folder, {"train": 200}).hash)


def test_builders_that_start_together_end_with_one_set(tmp_path):
    context = get_context("fork")
    pipes = [context.Pipe() for _ in range(3)]
    builders = [
        context.Process(target=_build_and_hash, args=(tmp_path / "set", theirs)) for _, theirs in pipes
    ]
    for builder in builders:
        builder.start()
    assert all(ours.poll(30) for ours, _ in pipes)
    assert len({ours.recv() for ours, _ in pipes}) == 1
    for builder in builders:
        builder.join(10)
    assert [p.name for p in tmp_path.iterdir() if p.name != ".set.lock"] == ["set"]
