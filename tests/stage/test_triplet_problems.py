"""What the terms of Doodle2Search need, told with the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swamp_dist.config import StageSettings
from swamp_dist.data.manifest import Manifest
from swamp_dist.stage.triplet_problems import triplet_problems
from tests.data.class_vector_sets import add_class_vectors
from tests.data.partner_sets import write_couples

HEADS: dict[str, Any] = {"model": {"doodle2search": {}, "embedding_dim": 4}}
PARTNERS: dict[str, Any] = {"partners": {"split": "train_photos", "negatives": "uniform"}}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_couples(tmp_path_factory.mktemp("couples") / "set", each=(2, 2))


def problems(
    manifest: Manifest, weights: dict[str, float], data: dict[str, Any], **changes: Any
) -> list[str]:
    asked = {
        "name": "x",
        "data": {"shards": manifest.folder, "a": "x", "b": "x", **data},
        "objective": {name: {"weight": weight} for name, weight in weights.items()},
        "train": {},
        "evaluate": [{"split": "test"}],
        **changes,
    }
    return list(triplet_problems(StageSettings.model_validate(asked), manifest))


def test_nothing_is_said_where_all_is_there(manifest: Manifest, tmp_path: Path) -> None:
    assert problems(manifest, {}, {}) == []
    assert problems(manifest, {"triplet": 1}, PARTNERS) == []
    assert problems(manifest, {"domain": 1}, PARTNERS, **HEADS) == []
    with_vectors = add_class_vectors(write_couples(tmp_path / "set", each=(2, 2)), np.eye(7))
    assert problems(with_vectors, {"semantic": 1}, PARTNERS, **HEADS) == []


def test_a_stage_that_only_evaluates_needs_nothing(manifest: Manifest) -> None:
    untrained: dict[str, Any] = {"train": None, "random_weights": True}
    assert problems(manifest, {"semantic": 1}, {}, **untrained) == []


def test_every_gap_is_told_with_its_fix(manifest: Manifest) -> None:
    none_drawn = {"partners": {"split": "train_photos"}}
    cases = [
        (problems(manifest, {"triplet": 1}, {}), ["data.partners = null"]),
        (problems(manifest, {"triplet": 1}, none_drawn), ["data.partners.negatives = none"]),
        (problems(manifest, {"domain": 1}, PARTNERS), ["the model has no heads for it"]),
        (problems(manifest, {}, {}, **HEADS), ["asks its heads"]),
        (problems(manifest, {"semantic": 1}, PARTNERS, **HEADS), ["vectors of the classes' names"]),
        (
            problems(
                manifest, {"triplet": 1}, PARTNERS, model={"sets": {"kind": "mean"}, "embedding_dim": 4}
            ),
            ["model.sets = mean"],
        ),
    ]
    for found, expected in cases:
        assert len(found) == len(expected), found
        assert all(text in one for text, one in zip(expected, found, strict=True)), found
        assert all("\nFix: " in one for one in found)
