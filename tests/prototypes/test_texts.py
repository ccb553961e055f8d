"""Which texts of a split say what a prototype is about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from swamp_dist.data.writer import write_shards
from swamp_dist.inference import load_model
from swamp_dist.prototypes.study import study
from swamp_dist.prototypes.texts import told_of
from swamp_dist.records import Sample
from tests.prototypes.made import FEATURES, run_over


@pytest.mark.parametrize(
    ("label", "source"), [("wine_glass", "texts beside the entries"), (None, None)], ids=["label", "nothing"]
)
def test_paths_of_image_files_are_no_keywords(tmp_path: Path, label: str | None, source: str | None) -> None:
    rows = np.random.default_rng(0).normal(size=(12, 2, 6)).astype(np.float32)
    said = {"label": label} if label else {}
    samples = [
        Sample(f"k{i}", {"a": a, "b": b}, text={"image": f"sketches/wine glass/n{i}.{ending}", **said})
        for i, (a, b) in enumerate(rows)
        for ending in [("png", "JPG", "jpeg")[i % 3]]
    ]
    manifest = write_shards({"test": samples}, tmp_path / "set", "sketches", {"kind": "test"}, 10, 0, [])
    run = run_over(manifest, tmp_path / "run", FEATURES, ("a", "b"), 5)
    found = study(load_model(run, device="cpu"), "test")
    assert found.words_from == source
    words = {keyword.word for each in found.prototypes for keyword in each.keywords}
    assert words == ({"wine", "glass"} if label else set())
    assert told_of(found.texts, found.keys, 0, 1, 1).startswith("sketches/wine glass/n")  # shown by its path
