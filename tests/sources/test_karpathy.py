"""Photos and captions by Karpathy's splits: which images and captions count, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from swamp_dist.config import KarpathySource, ShardSettings
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.prepare.build import build_shards, read_coverage
from swamp_dist.sources.karpathy import open_splits
from tests.sources.image_text_files import caption, write_karpathy


def source(folder: Path, **changes: Any) -> KarpathySource:
    values = {"file": folder / "dataset_toy.json", "root": folder / "images", **changes}
    return KarpathySource.model_validate(values)


def edit(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    file = folder / "dataset_toy.json"
    content = json.loads(file.read_text())
    change(content["images"])
    file.write_text(json.dumps(content))


def test_an_image_is_an_entry_with_its_bytes_and_first_five_captions(tmp_path: Path) -> None:
    write_karpathy(tmp_path, {"train": 2, "val": 1, "test": 1}, per=7)
    splits = open_splits(source(tmp_path))
    assert {name: list(split.keys) for name, split in splits.items()} == {
        "train": ["000000_v_0", "000001_v_1"], "dev": ["000000_v_2"], "test": ["000000_v_3"],
    }  # fmt: skip
    sample = splits["train"].read(1)
    assert sample.fields == {"image": (tmp_path / "images" / "1.jpg").read_bytes()}
    assert sample.captions == tuple(caption(1, n) for n in range(5))
    assert sample.text == {"image": "1.jpg"}
    assert splits["train"].captions is not None
    assert len(list(splits["train"].captions())) == 2
    assert len(open_splits(source(tmp_path, captions_per_image=7))["dev"].read(0).captions) == 7


def test_restval_joins_training_and_splits_can_be_renamed_or_left_out(tmp_path: Path) -> None:
    write_karpathy(tmp_path, {"train": 1, "restval": 2, "val": 1, "test": 1}, filepath="val2014")
    opened = open_splits(source(tmp_path))
    assert len(opened["train"].keys) == 3
    assert opened["train"].read(2).text == {"image": "val2014/2.jpg"}
    names = {"train": "train", "restval": None, "val": None, "test": "testall"}
    assert {k: len(v.keys) for k, v in open_splits(source(tmp_path, splits=names)).items()} == {
        "train": 1, "testall": 1,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"image 1: split 'restval'; source.splits names train, val, test"):
        open_splits(source(tmp_path, splits={"train": "train", "val": "dev", "test": "test"}))
    with pytest.raises(ValidationError, match="at least one split"):
        source(tmp_path, splits={"train": None})


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda images: images.clear(), "no list `images`"),
        (lambda images: images[0].pop("filename"), "image 0: expected filename"),
        (lambda images: images[0].update(sentences="a"), "image 0: expected filename"),
        (
            lambda images: images[0].update(filename="../0.jpg"),
            "image 0: expected the path of an image below",
        ),
        (
            lambda images: images[1].update(filename="0.jpg"),
            "image 1: split 'train' has an image 0.jpg already",
        ),
        (lambda images: images[2].update(split="train"), "no image in split dev"),
        (lambda images: images.insert(0, 3), "image 0: split None"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, change: Callable[[Any], None], finding: str) -> None:
    write_karpathy(tmp_path, {"train": 2, "val": 1, "test": 1})
    edit(tmp_path, change)
    with pytest.raises(UserError, match=finding):
        open_splits(source(tmp_path))


def test_absent_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset_toy.json: no such file"):
        open_splits(source(tmp_path))
    (tmp_path / "dataset_toy.json").write_text("{")
    with pytest.raises(UserError, match=r"expected dataset_flickr30k.json"):
        open_splits(source(tmp_path))


def test_bad_photos_and_captions_are_bad_entries(tmp_path: Path) -> None:
    write_karpathy(tmp_path, {"train": 3, "val": 1, "test": 1})
    (tmp_path / "images" / "0.jpg").unlink()
    edit(tmp_path, lambda images: images[1].update(sentences=[]))
    edit(tmp_path, lambda images: images[2]["sentences"][0].update(raw=3))
    train = open_splits(source(tmp_path))["train"]
    kinds = []
    for number in range(3):
        with pytest.raises(BadEntry) as raised:
            train.read(number)
        kinds.append(raised.value.kind)
    assert kinds == ["no image", "no captions", "captions malformed"]


def test_an_image_that_does_not_decode_is_counted(tmp_path: Path) -> None:
    write_karpathy(tmp_path, {"train": 4, "val": 1, "test": 1})
    photo = tmp_path / "images" / "2.jpg"
    photo.write_bytes(photo.read_bytes()[:-200])
    recipe = ShardSettings(name="toy", source=source(tmp_path), on_missing="skip", max_missing_share=0.5)
    manifest = build_shards(recipe, tmp_path / "toy")
    assert str(manifest.field("image")) == "image"
    coverage, _ = read_coverage(tmp_path / "toy")
    assert coverage is not None
    assert coverage.splits["train"].skipped["image cut short"].first == ("000002_v_2",)
    with pytest.raises(UserError, match="v_2"):
        build_shards(recipe.model_copy(update={"on_missing": "fail"}), tmp_path / "other")
