"""The vocabulary of a recipe in its set: counted or taken, named in the manifest, and captions without a "
"word."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from swamp_dist.config import ShardSettings
from swamp_dist.data.manifest import read_manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.data.vocabulary import vocabulary_path
from swamp_dist.encoders.vocabulary import MARKS, Vocabulary, read_vocabulary, write_vocabulary
from swamp_dist.errors import UserError
from swamp_dist.prepare.build import BuildWorkers, build_shards, read_coverage
from tests.sources.image_text_files import write_scan

COUNTED = {"min_count": 2, "splits": ["train"]}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two training images and one of dev; the captions are written by the tests."""
    write_scan(tmp_path / "raw", "train", 2)
    write_scan(tmp_path / "raw", "dev", 1)
    say(tmp_path / "raw", "train", ["A man's hat .", "a Man", "a dog", "a", "hat"] + ["the hat ."] * 5)
    say(tmp_path / "raw", "dev", ["zebra zebra", "a zebra", "a", "hat", "man"])
    return tmp_path / "raw"


def say(folder: Path, split: str, captions: list[str]) -> None:
    (folder / f"{split}_caps.txt").write_text("\n".join(captions) + "\n")


def recipe(raw: Path, vocabulary: Any, **changes: Any) -> ShardSettings:
    source = {"kind": "scan", "folder": raw, "splits": ["train", "dev"], "width": 8}
    return ShardSettings.model_validate(
        {"name": "toy", "source": source, "vocabulary": vocabulary, **changes}
    )


def test_frequent_words_of_the_named_splits_are_counted(raw: Path, tmp_path: Path) -> None:
    manifest = build_shards(recipe(raw, {**COUNTED, "unknown": "keep"}), tmp_path / "toy")
    path = vocabulary_path(manifest)
    assert path is not None
    assert read_vocabulary(path).words == (*MARKS, "a", "man", "hat", ".", "the")
    record = manifest.record.vocabulary
    assert record is not None
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (record.words, record.min_count, record.splits) == (9, 2, ("train",))
    coverage, text = read_coverage(tmp_path / "toy")
    assert coverage is not None
    assert coverage.splits["dev"].tally == {
        "captions": 5, "captions_without_words": 1, "tokens": 7, "unknown_tokens": 3,
    }  # fmt: skip
    assert coverage.splits["train"].tally["unknown_tokens"] == 2  # 's and dog
    assert "tokens outside the vocabulary: 3 of 7 (42.86%)" in text
    assert "vocabulary: 9 words" in text


def test_a_published_file_is_taken_and_pinned(raw: Path, tmp_path: Path) -> None:
    file = tmp_path / "vocab.json"
    write_vocabulary(Vocabulary((*MARKS, "a", "hat", "man", "the", "zebra")), file)
    settings = recipe(raw, {"file": file})
    manifest = build_shards(settings, tmp_path / "toy", workers=BuildWorkers(2))
    assert manifest.record.vocabulary is not None
    assert manifest.record.vocabulary.sha256 == read_vocabulary(file).sha256
    assert build_shards(settings, tmp_path / "toy").hash == manifest.hash
    write_vocabulary(Vocabulary((*MARKS, "a", "hat")), file)
    with pytest.raises(UserError, match=r"vocabulary.file: .* is not the vocabulary that the set holds"):
        build_shards(settings, tmp_path / "toy")
    file.unlink()
    assert build_shards(settings, tmp_path / "toy").hash == manifest.hash  # used where the file is not
    with pytest.raises(UserError, match="no such file"):
        build_shards(settings, tmp_path / "other")


def test_another_count_is_another_set_and_sets_without_keep_their_hash(raw: Path, tmp_path: Path) -> None:
    plain = build_shards(recipe(raw, None), tmp_path / "plain")
    assert "vocabulary" not in json.loads((tmp_path / "plain" / "manifest.json").read_text())
    assert vocabulary_path(plain) is None
    with pytest.raises(UserError, match="vocabulary: found none, wanted one"):
        build_shards(recipe(raw, {**COUNTED, "unknown": "keep"}), tmp_path / "plain")
    build_shards(recipe(raw, {**COUNTED, "unknown": "keep"}), tmp_path / "toy")
    with pytest.raises(UserError, match="vocabulary.min_count: found 2, wanted 3"):
        build_shards(recipe(raw, {**COUNTED, "min_count": 3, "unknown": "keep"}), tmp_path / "toy")


def test_a_caption_without_known_words_follows_the_policy(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"v_1000: no word of 'zebra zebra' is in the vocabulary"):
        build_shards(recipe(raw, COUNTED), tmp_path / "fails")
    say(raw, "dev", ["zebra"] * 5)
    write_scan(raw, "train", 3)
    say(raw, "train", ["a hat"] * 5 + ["a hat", "zebra", "a hat", "...!", "a"] + ["a hat"] * 5)
    skipping = {"on_missing": "skip", "max_missing_share": 0.5}
    with pytest.raises(UserError, match="1 of 1 entries"):
        build_shards(recipe(raw, COUNTED, **skipping), tmp_path / "skips")
    say(raw, "dev", ["a"] * 5)
    build_shards(recipe(raw, COUNTED, **skipping), tmp_path / "skips")
    coverage, _ = read_coverage(tmp_path / "skips")
    assert coverage is not None
    assert coverage.splits["train"].skipped["caption without known words"].first == ("000001_v_1001",)
    dropped = build_shards(recipe(raw, {**COUNTED, "unknown": "drop"}), tmp_path / "drops")
    entries = open_reader(dropped, "train", ["text"]).read(range(3))
    assert {entry.key: len(entry.arrays["text"]) for entry in entries} == {
        "000000_v_1000": 5,
        "000001_v_1001": 3,
        "000002_v_1002": 5,
    }


def test_a_damaged_or_foreign_file_beside_the_shards_is_refused(raw: Path, tmp_path: Path) -> None:
    build_shards(recipe(raw, {**COUNTED, "unknown": "keep"}), tmp_path / "toy")
    write_vocabulary(Vocabulary((*MARKS, "other")), tmp_path / "toy" / "vocabulary.json")
    with pytest.raises(UserError, match="the vocabulary of another set: 5 words"):
        vocabulary_path(read_manifest(tmp_path / "toy"))


@pytest.mark.parametrize(
    ("vocabulary", "finding"),
    [
        ({}, "give either file"),
        ({"min_count": 4}, "splits go with min_count"),
        ({"file": "v.json", "splits": ["train"]}, "splits go with min_count"),
        ({"file": "v.json", "min_count": 1, "splits": ["train"]}, "give either file"),
    ],
)
def test_settings_that_say_two_things_are_refused(vocabulary: Any, finding: str) -> None:
    with pytest.raises(ValidationError, match=finding):
        recipe(Path(), vocabulary)


def test_words_and_vocabulary_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="give one of them"):
        recipe(tmp_path, COUNTED, words={"vectors": "v.bin"})


def test_splits_and_counts_that_give_no_word_are_refused(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no split val; the source has train, dev"):
        build_shards(recipe(raw, {"min_count": 2, "splits": ["val"]}), tmp_path / "toy")
    with pytest.raises(UserError, match="no word stands 99 times"):
        build_shards(recipe(raw, {"min_count": 99, "splits": ["dev"]}), tmp_path / "toy")
