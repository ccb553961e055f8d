"""Indexes that are not those of the manifest: refused when a split is opened, with the row."""

import hashlib
import json

import numpy as np
import pytest

from swamp_dist.data.index_file import index_fault
from swamp_dist.data.manifest import ManifestRecord, load_manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.data.verify import verify_shards
from swamp_dist.errors import UserError
from tests.data.shard_sets import build


@pytest.fixture
def folder(tmp_path):
    build(tmp_path / "set", seed=None)
    return tmp_path / "set"


def _change(folder, change, *, in_the_manifest):
    """Change the rows of the index of `train`; `in_the_manifest`: the manifest names the new file's hash."""
    path = folder / "train.index.npy"
    np.save(path, change(np.load(path)))
    if not in_the_manifest:
        return
    content = json.loads((folder / "manifest.json").read_text())
    content["splits"]["train"]["index"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    record = ManifestRecord.model_validate(content)
    record = record.model_copy(update={"hash": record.content_hash()})
    (folder / "manifest.json").write_text(record.model_dump_json())


def _open(folder, reading="seek"):
    return open_reader(load_manifest(folder), "train", ("a", "b"), reading)


def _put(row, **values):
    def change(rows):
        for name, value in values.items():
            rows[name][row] = value
        return rows

    return change


def _double(rows):
    rows[4] = rows[3]
    return rows


def _swap(rows):
    rows[[3, 4]] = rows[[4, 3]]
    return rows


CHANGES = {
    "doubled": (_double, "row 4 .entry 'key-0003'.: shard 0, bytes 9216"),
    "swapped": (_swap, "row 3 .entry 'key-0004'."),
    "shard below 0": (_put(12, shard=-1), "row 12 .entry 'key-0012'.: shard -1, .*expected shard 1"),
    "shard beyond": (_put(36, shard=77), "row 36 .*: shard 77, .*expected shard 3"),
    "another shard": (_put(20, shard=1), "row 20 .*: shard 1, .*expected shard 2"),
    "offset": (_put(3, offset=0), "row 3 .*: shard 0, bytes 0 to"),
    "nothing": (_put(5, size=0), "row 5 "),
    "all of it": (_put(3, size=2**40), "row 3 .*within 40960 bytes"),
    "overflow": (_put(3, size=2**63 - 1), "row 3 "),
    "shorter": (lambda rows: rows[:-1], "36 rows of .*expected 37"),
    "longer": (lambda rows: rows[np.r_[:37, 36]], "38 rows of .*expected 37"),
    "plain numbers": (lambda rows: np.arange(37), "37 rows of int64, expected 37 rows with key, shard"),
    "other numbers": (
        lambda rows: rows.astype([(n, "S8" if n == "key" else "f8") for n in rows.dtype.names]),
        "rows of .*expected keys and whole numbers",
    ),
}


@pytest.mark.parametrize("reading", ["seek", "stream"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_row_that_is_not_of_the_split_is_named_whatever_the_manifest_says(folder, name, reading):
    change, words = CHANGES[name]
    _change(folder, change, in_the_manifest=True)
    with pytest.raises(UserError, match=rf"train\.index\.npy: {words}"):
        _open(folder, reading)
    (problem,) = [p for p in verify_shards(folder) if p.file == "train.index.npy"]
    assert problem.split == "train"


@pytest.mark.parametrize("reading", ["seek", "stream"])
def test_an_index_of_another_hash_is_refused_when_it_is_opened(folder, reading):
    _change(folder, _put(7, label=1), in_the_manifest=False)  # a sound row, with another class
    with pytest.raises(UserError, match=r"train\.index\.npy: sha256 differs from the manifest\.\n.*Copy"):
        _open(folder, reading)
    _change(folder, _put(7, label=1), in_the_manifest=True)
    _open(folder, reading)


@pytest.mark.parametrize(
    "payload", [b"", b"junk", b"PK\x03\x04" + bytes(60), b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((\n"]
)
def test_files_that_are_no_index_are_named(folder, payload):
    (folder / "train.index.npy").write_bytes(payload)
    with pytest.raises(UserError, match=r"train\.index\.npy: cannot be read as an index"):
        _open(folder)
    assert [p.file for p in verify_shards(folder)] == ["train.index.npy"]


def test_a_sound_index_has_no_fault(folder):
    assert index_fault(folder / "train.index.npy", load_manifest(folder).record.splits["train"]) is None
