"""A sketch set from its recipe to what `swamp shards verify` says of it beside the published counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swamp_dist.config import ShardSettings
from swamp_dist.data.class_vectors import class_names
from swamp_dist.data.manifest import Manifest
from swamp_dist.errors import UserError
from swamp_dist.prepare.build import build_shards
from swamp_dist.prepare.explain import explain_set
from swamp_dist.sources import class_splits, published_sketches
from swamp_dist.sources.published_sketches import Sides, SketchCounts
from tests.sources.sketch_files import write_folders

FOLDERS = ("Sketchy/sketch/tx_000000000000", "EXTEND_image_sketchy")


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sketchy, of a size that is built in a moment."""
    monkeypatch.setattr(class_splits, "UNSEEN", {"sketchy21": ("bat",)})
    monkeypatch.setattr("swamp_dist.sources.sketch_folders.UNSEEN", {"sketchy21": ("bat",)})
    counts = SketchCounts(Sides(3, 1), Sides(None, 2), Sides(9, 4))
    monkeypatch.setattr(published_sketches, "SKETCH_SETS", {"sketchy sketchy21": counts})
    write_folders(tmp_path / "raw", ["ant", "bat", "cow", "dog"], *FOLDERS, (2, 3))
    return tmp_path / "raw"


def build(raw: Path, out: Path, **changes: Any) -> Manifest:
    source = {"kind": "sketchy", "folder": raw, "split": "sketchy21", "validation_classes": 1}
    return build_shards(ShardSettings.model_validate({"name": "toy", "source": source, **changes}), out)


def test_counts_stand_beside_the_published_ones(raw: Path, tmp_path: Path) -> None:
    manifest = build(raw, tmp_path / "toy")
    assert class_names(manifest) == ("ant", "bat", "cow", "dog")
    lines = explain_set(manifest)
    assert "train + validation: 3 seen classes, as published" in lines
    assert "train + validation: 6 sketches; no published count" in lines
    assert "train_photos + validation_photos: 9 photos, as published" in lines
    assert "test: 1 unseen classes, as published" in lines
    assert "test: 2 sketches, as published" in lines
    (line,) = (line for line in lines if line.startswith("test_photos: 3 photos"))
    assert "4 published, -1 here: the raw files hold another number" in line
    assert "figures on sketchy21 and on sketchy25 do not compare: their unseen classes differ" in lines
    assert "classes: 4 with names; no vectors" in lines


def test_an_image_that_does_not_decode_follows_the_policy(raw: Path, tmp_path: Path) -> None:
    cut(raw / FOLDERS[0] / "ant" / "s1.png")
    with pytest.raises(UserError, match=rf"000_v_s1: field 'image' \({FOLDERS[0]}/ant/s1.png\): "):
        build(raw, tmp_path / "fails")
    skipping = {"on_missing": "skip", "max_missing_share": 0.5}
    lines = explain_set(build(raw, tmp_path / "toy", **skipping))
    (line,) = (line for line in lines if line.startswith("train + validation: 5 sketches"))
    assert line.endswith("; no published count; left out: 1 x image cannot be decoded: 000_v_s1")
    cut(raw / FOLDERS[1] / "bat" / "p1.jpg")  # a gallery with gaps would be another protocol
    with pytest.raises(UserError, match=r"split 'test_photos', entry 001_v_p1"):
        build(raw, tmp_path / "gaps", **skipping)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])
