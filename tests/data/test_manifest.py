import json
import pickle

import numpy as np
import pytest

from swamp_dist.data.manifest import load_manifest
from swamp_dist.errors import UserError
from tests.data.shard_sets import build, sample


def test_a_manifest_says_what_is_in_the_set(tmp_path):
    manifest = build(tmp_path / "set", {"train": 37, "test": 5}, items=(3, 1))
    assert manifest.splits == ("train", "test")
    assert str(manifest.field("a")) == "float32 (items, 3)"
    assert str(manifest.field("b")) == "float32 (3)"
    assert manifest.classes == 4
    split = manifest.split("train")
    assert (len(split), split.num_entries, split.shard_entries) == (37, 37, (10, 10, 10, 7))
    assert split.bytes == sum(path.stat().st_size for path in (tmp_path / "set").glob("train-*.tar"))
    keys = split.keys(range(37))
    assert sorted(keys) == [sample(i).key for i in range(37)]
    assert split.labels.tolist() == [int(key[-4:]) % 4 for key in keys]
    assert split.keys([5, 2]) == [keys[5], keys[2]]


def test_an_index_crosses_a_process_border_without_its_rows(tmp_path):
    split = build(tmp_path / "set", {"train": 2000}, per_shard=500).split("train")
    assert split.labels.shape == (2000,)
    assert len(pickle.dumps(split)) < 2000
    assert pickle.loads(pickle.dumps(split)).keys([7]) == split.keys([7])


def test_equal_content_has_an_equal_hash_wherever_it_lies(tmp_path):
    assert build(tmp_path / "one").hash == build(tmp_path / "two").hash
    assert build(tmp_path / "three", {"train": 36}).hash != load_manifest(tmp_path / "one").hash


def test_a_missing_set_names_the_command_that_builds_it(tmp_path):
    with pytest.raises(UserError, match=r"swamp shards build shards/tiny.yaml --out .*/set"):
        load_manifest(tmp_path / "set", "shards/tiny.yaml")
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match=r"no manifest\.json in it"):
        load_manifest(tmp_path / "set")


def test_missing_and_truncated_shards_are_all_named_before_anything_is_read(tmp_path):
    build(tmp_path / "set")
    (tmp_path / "set" / "train-000001.tar").unlink()
    short = tmp_path / "set" / "train-000003.tar"
    size = short.stat().st_size
    short.write_bytes(short.read_bytes()[:-512])
    with pytest.raises(UserError) as refused:
        load_manifest(tmp_path / "set")
    assert "train-000001.tar: missing" in str(refused.value)
    assert f"train-000003.tar: truncated: {size - 512} bytes, the manifest says {size}" in str(refused.value)
    assert "train-000002" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["splits"]["train"].update(entries=36), "does not match its own hash"),
        (lambda m: m.update(schema_version=2), "schema_version"),
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m["splits"]["train"]["shards"][0].update(file="../train-000000.tar"), "file"),
    ],
)
def test_an_edited_manifest_is_refused(tmp_path, change, words):
    build(tmp_path / "set")
    path = tmp_path / "set" / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        load_manifest(tmp_path / "set")


def test_a_cut_manifest_is_refused(tmp_path):
    build(tmp_path / "set")
    path = tmp_path / "set" / "manifest.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(UserError, match=r"manifest\.json: "):
        load_manifest(tmp_path / "set")


def test_wrong_names_get_a_suggestion(tmp_path):
    manifest = build(tmp_path / "set", {"train": 3, "test": 3})
    with pytest.raises(UserError, match=r"no split 'tset'.*Did you mean 'test'\? It has: train, test"):
        manifest.split("tset")
    with pytest.raises(UserError, match=r"no field 'video'.*It has: a, b"):
        manifest.field("video")


def test_a_damaged_index_is_named(tmp_path):
    manifest = build(tmp_path / "set")
    path = tmp_path / "set" / "train.index.npy"
    np.save(path, np.load(path)[:-1])
    with pytest.raises(UserError, match=r"train\.index\.npy: 36 rows"):
        manifest.split("train").keys([0])
    path.write_bytes(b"garbage")
    with pytest.raises(UserError, match=r"train\.index\.npy: cannot be read"):
        manifest.split("train").keys([0])
