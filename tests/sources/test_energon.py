"""Data sets prepared for Megatron-Energon, written by hand as its documentation describes them."""

import json
import logging
from pathlib import Path

import pytest

from swamp_dist.config import ShardSettings
from swamp_dist.data.manifest import read_manifest
from swamp_dist.errors import UserError
from swamp_dist.prepare.build import build_shards
from swamp_dist.prepare.raw_data import pin_source, source_record
from swamp_dist.sources.energon import MOST_VALUES
from swamp_dist.sources.webdataset import open_splits
from swamp_dist.yaml_tree import read_values
from tests.data.image_sets import encode, smooth
from tests.sources.test_webdataset import IMAGE, pair, source, write

SPLIT = """\
exclude:
  - shards/shard_003.tar
  - shards/shard_000.tar/0_{1..2}
split_parts:
  train:
  - shards/shard_{000..001}.tar
  val:
  - shards/shard_002.tar
  - shards/shard_003.tar
  test: []
"""
DATASET = """\
sample_type:
  __module__: megatron.energon
  __class__: CaptioningSample
field_map:
  image: jpg
  caption: txt
subflavors: {a: b}
"""
INFO = {"energon_version": "7.2.1", "shard_counts": {f"shards/shard_00{i}.tar": 4 for i in range(4)}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set" / "shards").mkdir(parents=True)
    (tmp_path / "set" / ".nv-meta").mkdir()
    for number in range(4):
        members = [m for i in range(4) for m in pair(f"{number}_{i}", f"picture {number} {i}")]
        extra = [(f"{number}_x.json", b'{"c": {"en": "one"}}'), (f"{number}_x.cls", b"5")]
        write(
            tmp_path / "set" / "shards" / f"shard_{number:03d}.tar", *members, *(extra if number > 3 else [])
        )
    meta(**{"split.yaml": SPLIT, "dataset.yaml": DATASET, ".info.json": json.dumps(INFO)})
    return tmp_path


def meta(**files: str) -> None:
    for name, text in files.items():
        (Path("set/.nv-meta") / name).write_text(text)


def energon(**changes):
    return source(splits={}, energon="set", **changes)


def test_splits_fields_and_exclusions_are_those_of_the_folder(folder, caplog):
    with caplog.at_level(logging.INFO):
        splits = open_splits(energon())
    assert {name: len(split.keys) for name, split in splits.items()} == {"train": 6, "val": 4}
    assert [splits["train"].read(i).text["key"] for i in range(6)] == [
        "0_0",
        "0_3",
        "1_0",
        "1_1",
        "1_2",
        "1_3",
    ]
    sample = splits["val"].read(1)
    assert (sample.fields, sample.captions, splits["val"].caption_field) == (
        {"image": IMAGE}, ("picture 2 1",), "caption",
    )  # fmt: skip
    assert "splits without tars are left out: 'test'" in caplog.text
    assert "not used: subflavors" in caplog.text
    assert "excludes: 2 of 2 named" in caplog.text
    assert "counts" not in caplog.text


def test_json_files_and_other_field_maps(folder, caplog):
    for name in ("split.yaml", "dataset.yaml", ".info.json"):
        (folder / "set" / ".nv-meta" / name).unlink()
    members = [("7.png", IMAGE), ("7.json", b'{"c": {"en": "a dog"}}'), ("7.cls", b"3"), ("7.mp4", b"")]
    write(folder / "set" / "b.tar", *members)
    fields = {"image": "jpg,png", "caption": "json[c][en]", "label": "cls", "video": "mp4"}
    meta(**{
        "split.json": json.dumps({"split_parts": {"train": ["b.tar"]}}),
        "dataset.json": json.dumps({"field_map": fields}),
        ".info.yaml": "shard_counts:\n  b.tar: 5\n",
    })  # fmt: skip
    with caplog.at_level(logging.INFO):
        sample = open_splits(energon())["train"].read(0)
    assert (sample.fields, sample.captions, sample.label) == ({"image": IMAGE}, ("a dog",), 3)
    assert "field_map.video: members that end in mp4 are left out" in caplog.text
    assert ".info.yaml counts 5 samples in b.tar, which has 1; 1 of 1 tars differ" in caplog.text


def test_fields_of_the_recipe_count_and_code_never_runs(folder, caplog):
    meta(**{
        "dataset.yaml": "sample_loader: sample_loader.py:load\npart_filter: sample_loader.py:part\n",
        "sample_loader.py": "raise SystemExit('ran')",
    })  # fmt: skip
    with caplog.at_level(logging.INFO):
        assert set(open_splits(energon(fields={"picture": "jpg"}))["train"].read(0).fields) == {"picture"}
    assert "not used: sample_loader, part_filter (code is never run)" in caplog.text
    assert "has no field_map" not in caplog.text
    with caplog.at_level(logging.INFO):
        assert open_splits(energon())["train"].caption_field == "text"
    assert "has no field_map: members become fields by source.fields" in caplog.text


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"split.yaml": "split_parts: {train: [../a.tar]}"}, "split_parts.train: expected names below set"),
        ({"split.yaml": "split_parts: {train: [/a.tar]}"}, "expected names below set, found '/a.tar'"),
        ({"split.yaml": "split_parts: {train: a.tar}"}, "expected a list of names of tars, found 'a.tar'"),
        ({"split.yaml": "split_parts: {train: ['a{1.tar']}"}, "split_parts.train: .*braces in pairs"),
        ({"split.yaml": "split_parts: {train: []}"}, "split_parts names no tar"),
        ({"split.yaml": "exclude: []"}, "split_parts: expected names with values, found None"),
        ({"split.yaml": "- a"}, "expected `key: value` lines"),
        ({"split.yaml": "a: !!python/object/apply:os.system [id]"}, "tags .* are not supported"),
        ({"split.yaml": "a: &b [1]\nc: *b"}, "aliases .* are not supported"),
        ({"split.yaml": "split_parts: {'a b': [shards/shard_000.tar]}"}, "splits.a b.*: expected a name"),
        ({"split.yaml": "split_parts: {a: [no.tar]}"}, "split.yaml: split_parts.a: no such file: set/no.tar"),
        ({"split.yaml": SPLIT.replace("shard_000.tar/0_{1..2}", "shard_002.tar/2_{0..3}")},
         "exclude names every sample of split 'val'"),
        ({"dataset.yaml": "field_map: {image: 'json[0]'}"}, r"'json\[0\]' is not supported: expected names"),
        ({"dataset.yaml": "field_map: {image: 'txt,json[c]'}"}, "not supported. Give source.fields"),
        ({"dataset.yaml": "field_map: {image: ']'}"}, "expected a member such as jpg"),
        ({"dataset.yaml": "field_map: {video: mp4}"}, "no member of it is an image, a text or an array"),
        ({"dataset.yaml": "field_map: {q: txt, a: b.txt}"}, "q, a are all captions; one field may be"),
        ({"dataset.yaml": "field_map: {c: json}"}, "json_key: give it where a field is a json member"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(folder, files, says):
    meta(**files)
    with pytest.raises(UserError, match=says):
        open_splits(energon())


def test_a_folder_without_its_files_is_refused(folder):
    (folder / "set" / ".nv-meta" / "split.yaml").unlink()
    with pytest.raises(UserError, match=r"set/.nv-meta has no split.yaml.\nName the folder"):
        open_splits(energon())
    with pytest.raises(UserError, match="1 values"):
        read_values(folder / "set" / ".nv-meta" / "dataset.yaml", 1000, 1)
    assert MOST_VALUES > 2 * 100_000


def test_a_set_is_built_and_is_another_one_when_the_folder_says_something_else(folder):
    for number in range(3):
        members = [(f"{number}_{i}.jpg", encode(smooth(4 * number + i), "JPEG")) for i in range(4)]
        texts = [(f"{number}_{i}.txt", f"picture {i}".encode()) for i in range(4)]
        both = [member for two in zip(members, texts, strict=True) for member in two]
        write(folder / "set" / "shards" / f"shard_{number:03d}.tar", *both)
    settings = ShardSettings(name="mine", source=energon())
    with pytest.raises(UserError, match='a data set of Megatron-Energon.*energon: ".*set"'):
        read_manifest(folder / "set")
    first = build_shards(settings, folder / "out")
    assert {name: len(first.split(name)) for name in first.splits} == {"train": 6, "val": 4}
    assert set(first.record.fields) == {"image", "caption"}
    assert build_shards(settings, folder / "out").hash == first.hash
    meta(**{"split.yaml": SPLIT.replace("exclude:\n  - shards/shard_003.tar\n", "exclude:\n")
            .replace("  - shards/shard_003.tar\n  test", "  test").replace("{1..2}", "1")})  # fmt: skip
    with pytest.raises(UserError, match="--force"):
        build_shards(settings, folder / "out")


def test_sets_of_before_keep_their_record():
    assert "energon" not in source_record(pin_source(source()))
    assert source_record(pin_source(energon()))["energon"] == "set"
