"""The payload index of a set: part of a build, of `verify`, and added to a set that stands."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from swamp_dist.data import shard_unit
from swamp_dist.data.entry import ShardError
from swamp_dist.data.indexing import index_set
from swamp_dist.data.manifest import ManifestRecord, load_manifest
from swamp_dist.data.payload_index import index_payloads, pack_rows, payload_dtype, unpack_rows
from swamp_dist.data.verify import entry_rows, verify_shards
from swamp_dist.errors import UserError
from tests.data.shard_sets import build, flip, members

FILES = ("train.payloads.npy", "test.payloads.npy")


@pytest.fixture
def folder(tmp_path):
    build(tmp_path / "set", {"train": 25, "test": 5})
    return tmp_path / "set"


def _as_of_an_earlier_version(folder):
    """The same set as a version without payload indexes wrote it."""
    content = json.loads((folder / "manifest.json").read_text())
    for split in content["splits"].values():
        (folder / split.pop("payloads")["file"]).unlink()
    (folder / "manifest.json").write_text(json.dumps(content, indent=1))


def test_rows_point_at_the_payloads(folder):
    rows = np.load(folder / "train.payloads.npy")
    split = load_manifest(folder).split("train")
    assert len(rows) == 25
    for key, row, of_entry in zip(split.keys(range(25)), rows, split.rows, strict=True):
        found = members(split.shard_path(int(of_entry["shard"])))
        for name, place in zip("ab", row["payloads"], strict=True):
            start, stop = found[f"{key}.{name}.npy"]
            assert (place["offset"], place["size"]) == (start, stop - start)


def test_a_set_is_the_same_set_with_and_without(folder):
    built, files = load_manifest(folder), {name: (folder / name).read_bytes() for name in FILES}
    _as_of_an_earlier_version(folder)
    old = load_manifest(folder)
    assert (old.hash, old.record.recipe()) == (built.hash, built.record.recipe())
    assert "payloads" not in old.record.model_dump_json()
    assert verify_shards(folder) == []
    assert index_set(folder) == built == load_manifest(folder)
    assert {name: (folder / name).read_bytes() for name in FILES} == files


def _torn(path):
    path.write_bytes(path.read_bytes()[:-1])


def _another_row(path):
    rows = np.load(path)
    rows["payloads"]["xxh3"][3, 1] += np.uint64(1)
    np.save(path, rows)


DAMAGES = {
    "missing": (lambda path: path.unlink(), "missing"),
    "torn": (_torn, "cannot be read as a payload index"),
    "row": (_another_row, r"row 3 .entry 'key-.*'. does not agree with train-00000\d\.tar"),
    "header": (lambda path: flip(path, 70), "cannot be read|sha256 differs"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_and_mended(folder, name):
    path, before = folder / "train.payloads.npy", (folder / "train.payloads.npy").read_bytes()
    damage, words = DAMAGES[name]
    damage(path)
    (problem,) = verify_shards(folder)
    assert (problem.file, problem.split, problem.is_payload_index) == (path.name, "train", True)
    assert re.search(words, problem.reason)
    index_set(folder)
    assert verify_shards(folder) == []
    assert path.read_bytes() == before


def _with_its_json_last(folder):
    """The first entry in an order that no writer of sets has, the manifest and its hash made to agree."""
    shard, content = folder / "train-000000.tar", json.loads((folder / "manifest.json").read_text())
    data, start = shard.read_bytes(), min(place[0] for place in members(shard).values()) - 512
    first = 1024  # its json, padded, with its header
    end = start + int(load_manifest(folder).split("train").rows["size"][0])
    data = data[:start] + data[start + first : end] + data[start : start + first] + data[end:]
    shard.write_bytes(data)
    content["splits"]["train"]["shards"][0]["sha256"] = hashlib.sha256(data).hexdigest()
    record = ManifestRecord.model_validate_json(json.dumps(content))
    record = record.model_copy(update={"hash": record.content_hash()})
    (folder / "manifest.json").write_text(record.model_dump_json(indent=1))


def test_a_shard_of_which_no_index_can_be_made_is_listed_beside_the_rest(folder):
    _with_its_json_last(folder)
    (folder / "test.payloads.npy").unlink()
    shard, index = verify_shards(folder)
    assert (shard.file, shard.is_payload_index) == ("train-000000.tar", False)
    assert re.fullmatch(
        r"no payload index can be made of it: entry 'key-\d+': entry.json is not its first member.*",
        shard.reason,
    )
    assert (index.file, index.reason) == ("test.payloads.npy", "missing")


def test_a_missing_file_is_told_when_the_set_is_opened(folder):
    for name in FILES:
        (folder / name).unlink()
    with pytest.raises(UserError, match=r"train.payloads.npy, test.payloads.npy missing\.\n.*shards index"):
        load_manifest(folder)


def test_a_damaged_shard_is_not_indexed(folder):
    shard, before = folder / "train-000001.tar", (folder / "train.payloads.npy").read_bytes()
    flip(shard, 700)
    with pytest.raises(ShardError, match=r"train-000001\.tar: "):
        index_set(folder)
    assert (folder / "train.payloads.npy").read_bytes() == before
    problems = verify_shards(folder)
    assert [problem.file for problem in problems] == ["train-000001.tar"]


def test_the_set_in_the_working_folder_is_locked_by_its_name(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder.parent / "link").symlink_to(folder)
    for name in (".", "../set", "../link"):
        lock = folder.parent / ".set.lock"
        lock.unlink(missing_ok=True)
        index_set(Path(name))
        assert lock.exists()
    assert not list(folder.glob(".*.lock"))


def test_a_sidecar_of_an_earlier_version_gives_the_same_file(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(shard_unit, "pack_rows", lambda rows: "")
    build(tmp_path / "other", {"train": 25, "test": 5})
    for name in FILES:
        assert (tmp_path / "other" / name).read_bytes() == (folder / name).read_bytes()


def test_rows_outlive_text_whatever_the_order_of_the_fields(folder):
    manifest = load_manifest(folder)
    split, specs = manifest.split("train"), manifest.fields
    turned = dict(reversed(specs.items()))
    rows = index_payloads(split.shard_path(0), entry_rows(split, 0, 10), specs)
    assert (index_payloads(split.shard_path(0), entry_rows(split, 0, 10), turned) == rows).all()
    assert (unpack_rows(pack_rows(rows), turned, 10) == rows).all()
    assert unpack_rows("", specs, 10) is None
    assert unpack_rows("no base64", specs, 10) is None
    assert unpack_rows("h\u00e9", specs, 10) is None
    assert unpack_rows(pack_rows(rows), specs, 9) is None
    assert payload_dtype(specs).itemsize == 56
