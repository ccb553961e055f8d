"""What is said of a split that looks like a published protocol and is another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from swamp_dist.cli.ending import evaluation_table
from swamp_dist.config import EvaluateSettings, TableRow, TableSettings
from swamp_dist.data.manifest import load_manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.data.writer import write_shards
from swamp_dist.distributed import alone
from swamp_dist.evaluate.protocol_notes import protocol_note
from swamp_dist.evaluate.results import from_json, to_json
from swamp_dist.evaluate.retrieval import evaluate_split
from swamp_dist.evaluate.table import build_table
from swamp_dist.records import EvaluationResult, Sample, StageResult


def evaluated(folder: Path, data: str) -> EvaluationResult:
    random = np.random.default_rng(0)
    rows = [
        Sample(f"{i}", {name: random.normal(size=4).astype(np.float32) for name in "ab"}) for i in range(6)
    ]
    write_shards({"test": rows}, folder, "set", {"kind": "scan", "data": data}, entries_per_shard=6)
    manifest = load_manifest(folder)
    reader = open_reader(manifest, "test", ("a", "b"))
    unit = torch.nn.functional.normalize
    settings = EvaluateSettings(split="test")
    return evaluate_split(unit, unit, manifest, settings, "a", "b", alone(), (reader, reader))


def test_the_first_thousand_of_coco_are_told_from_the_protocol(tmp_path: Path) -> None:
    result = evaluated(tmp_path / "coco", "coco")
    assert "five folds of 1,000 images of testall" in result.note
    assert from_json(to_json(result)) == result
    assert str(evaluation_table(result).caption) == result.note
    run = StageResult("coco", tmp_path, None, None, 0, (result,), {})
    settings = TableSettings(metrics=("pair/a_to_b/r_at_1",), rows=(TableRow(label="a", stage="a"),))
    assert build_table(settings, {"a": [run, run]}).notes.count(result.note) == 1


@pytest.mark.parametrize(("kind", "data", "split"), [
    ("scan", "f30k", "test"), ("scan", "coco", "testall"),
    ("karpathy", "coco", "test"), ("pairs", None, "test"),
])  # fmt: skip
def test_other_splits_have_no_note(kind: str, data: str | None, split: str) -> None:
    assert protocol_note({"kind": kind, "data": data}, split) == ""


def test_results_of_sets_without_a_note_stay_as_they_were(tmp_path: Path) -> None:
    result = evaluated(tmp_path / "f30k", "f30k")
    assert "note" not in to_json(result)
    assert evaluation_table(result).caption is None
