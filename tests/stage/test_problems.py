"""What is told of a validation before a stage starts: its metric, and a split that chooses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swamp_dist.config import StageSettings
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.writer import write_shards
from swamp_dist.records import Sample
from swamp_dist.stage.problems import stage_problems


def write_set(folder: Path, classes: int) -> Manifest:
    """Splits train, validation and validation_photos; the latter two of so many classes."""
    row = np.ones(4, np.float32)
    sizes = {"train": 3, "validation": classes, "validation_photos": classes}
    samples = {
        split: [Sample(f"{split}-{i}", {"x": row}, i % count) for i in range(12)]
        for split, count in sizes.items()
    }
    return write_shards(samples, folder, "few", {"kind": "test"}, 12, 0, [])


def problems(manifest: Manifest, metric: str, **train: Any) -> list[str]:
    on = {"split": "validation", "gallery": "validation_photos", "metric": metric}
    on |= {"early_stop": train.pop("early_stop", None)}
    settings = {
        "name": "x",
        "data": {"shards": manifest.folder, "a": "x", "b": "x", "entries": 4},
        "model": {"a": {"kind": "mlp"}, "b": {"kind": "mlp"}, "embedding_dim": 4},
        "objective": {"swamp": {"weight": 0}},
        "train": {"epochs": 1, "validate_on": on, **train},
    }
    found = stage_problems(StageSettings.model_validate(settings), manifest, 1, ())
    return [problem for problem in found if "metric" in problem or "train.validate_on" in problem]


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("map_at_200_hit", "map_at_200_hits"),
        ("mapat_50", "map_at_50"),
        ("p_at200", "p_at_200"),
        ("hits_at_3", "hit_at_3"),
        ("map_at_0", "map_at_K"),
        ("r_at_2", "r_at_5"),
    ],
)
def test_the_nearest_figure_is_meant_with_its_number(tmp_path: Path, asked: str, meant: str) -> None:
    manifest = write_set(tmp_path / "set", 2)
    (problem,) = problems(manifest, f"class/a_to_b/{asked}")
    assert f"Did you mean 'class/a_to_b/{meant}'?" in problem
    assert "r_at_10,median_rank,map,p_at_K,map_at_K,map_at_K_hits,hit_at_N}" in problem
    if not meant.endswith("_K"):
        assert problems(manifest, f"class/a_to_b/{meant}") == []


def test_a_split_of_one_class_chooses_no_weights(tmp_path: Path) -> None:
    one, two = write_set(tmp_path / "one", 1), write_set(tmp_path / "two", 2)
    chosen: dict[str, Any]
    for chosen in ({"select": "best"}, {"early_stop": 2}):
        (problem,) = problems(one, "class/a_to_b/map", **chosen)
        assert "all entries of split 'validation'" in problem
        assert "are of one class, class 0: every ranking by class is right" in problem
        assert "Fix: a set with more classes in that split" in problem
        assert problems(two, "class/a_to_b/map", **chosen) == []
    assert problems(one, "class/a_to_b/map") == []
