"""What `swamp shards verify` says of an image-text set beside the published counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swamp_dist.config import ShardSettings
from swamp_dist.prepare.build import build_shards
from swamp_dist.prepare.explain import explain_set
from swamp_dist.sources import published
from tests.data.shard_sets import build
from tests.sources.image_text_files import write_karpathy, write_scan

SMALL: Mapping[str, Mapping[str, int]] = {
    "scan f30k": {"train": 4, "dev": 3, "test": 2},
    "scan coco": {"train": 4, "dev": 2, "test": 2, "testall": 4},
    "karpathy coco": {"train": 2, "restval": 2, "val": 1, "test": 4},
    "karpathy f30k": {"train": 4, "val": 3, "test": 2},
}


@pytest.fixture(autouse=True)
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published sets, of a size that is built in a moment."""
    monkeypatch.setattr(published, "PUBLISHED", {**published.PUBLISHED, **SMALL})
    monkeypatch.setattr("swamp_dist.prepare.explain.PUBLISHED", SMALL)


def explain(tmp_path: Path, source: dict[str, Any], **changes: Any) -> list[str]:
    recipe = ShardSettings.model_validate({"name": "toy", "source": source, **changes})
    return explain_set(build_shards(recipe, tmp_path / "toy"))


def scan(tmp_path: Path, data: str, counts: dict[str, int], **changes: Any) -> dict[str, Any]:
    for split, images in counts.items():
        write_scan(tmp_path / "raw", split, images)
    files = {"kind": "scan", "folder": tmp_path / "raw", "splits": list(counts), "width": 8}
    return {**files, "data": data, **changes}


def test_a_set_as_published_is_called_that(tmp_path: Path) -> None:
    source = scan(tmp_path, "f30k", {"train": 4, "dev": 3, "test": 2}, dev_images=2)
    lines = explain(tmp_path, source, vocabulary={"min_count": 11, "splits": ["train", "dev"]})
    assert "field regions: float32 (elements, 8)" in lines
    assert "train: 4 images, as published" in lines
    assert "train: 20 captions, 5 per image, as published" in lines
    assert "dev: 2 images, as published" in lines
    assert "test: regions (3, 8) in the first entry, published features have (36, 2048)" in lines
    assert lines[-1].endswith("that stand 11 times in the captions of train, dev")
    words = next(line for line in lines if line.startswith("train: ") and "unknown" in line)
    assert words == "train: 9 of 240 words unknown (3.75%), 0 captions without a known word"


def test_missing_images_are_counted_and_explained(tmp_path: Path) -> None:
    source = scan(tmp_path, "f30k", {"train": 3, "test": 10})
    lines = explain(tmp_path, source)
    assert any(
        line.startswith("train: 3 images; 4 published, -1 here: the raw files hold another number")
        for line in lines
    )
    assert any("test: 10 images; 2 published, +8 here: a factor of 5" in line for line in lines)


def test_images_that_were_left_out_are_named(tmp_path: Path) -> None:
    source = scan(tmp_path, "f30k", {"train": 4})
    features = np.load(tmp_path / "raw" / "train_ims.npy")
    features[1, 0, 0] = np.nan
    np.save(tmp_path / "raw" / "train_ims.npy", features)
    lines = explain(tmp_path, source, on_missing="skip", max_missing_share=0.5)
    assert "train: 3 images; 4 published, -1 here: left out: 1 x values not finite: 000001_v_1001" in lines


def test_coco_says_what_test_and_testall_are_for(tmp_path: Path) -> None:
    lines = explain(tmp_path / "with", scan(tmp_path / "with", "coco", {"train": 4, "test": 2, "testall": 4}))
    assert any("published 1K figures are means over five folds of testall" in line for line in lines)
    lines = explain(tmp_path / "less", scan(tmp_path / "less", "coco", {"train": 4, "test": 2}))
    assert any("folds of 1,000 need; it is not in this set" in line for line in lines)


def test_photos_without_restval_and_with_another_name_for_testall(tmp_path: Path) -> None:
    file = write_karpathy(tmp_path, {"train": 2, "restval": 2, "val": 1, "test": 4}, filepath="val2014")
    names = {"train": "train", "restval": None, "val": "dev", "test": "test"}
    source = {"kind": "karpathy", "data": "coco", "file": file, "root": tmp_path / "images", "splits": names}
    lines = explain(tmp_path, source)
    assert any("test has them: call it testall" in line for line in lines)
    assert any("train is without restval" in line for line in lines)
    assert "test: 20 captions, 5 per image, as published" in lines


def test_captions_that_were_left_out_change_the_mean(tmp_path: Path) -> None:
    source = scan(tmp_path, "f30k", {"train": 4}, wordless="drop")
    path = tmp_path / "raw" / "train_caps.txt"
    path.write_text("\n".join(["..."] + path.read_text().split("\n")[1:]))
    assert any("19 captions, 4.750 per image on average" in line for line in explain(tmp_path, source))


def test_other_sets_are_listed_without_a_comparison(tmp_path: Path) -> None:
    lines = explain_set(build(tmp_path / "toy"))
    assert not any("published" in line for line in lines)
    assert any(line.startswith("train: ") for line in lines)
