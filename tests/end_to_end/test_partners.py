"""Pairs drawn by class through the command: shown, trained, continued, and tested against a gallery split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.data.partner_sets import picture, vector, write_couples
from tests.end_to_end.command import refused, sha256, swamp

JOB = """\
name: couples
data:
  shards: {folder}/set
  a: {field}
  b: {field}
  entries: 16
  workers: 1
  images: {{size: 32}}
  partners: {{split: train_photos, negatives: uniform, names: {{a: sketch, b: photo}}}}
model: {{embedding_dim: 8, a: {{kind: {kind}}}, b: {{kind: {kind}}}}}
objective: {{contrastive: {{positives: class}}, swamp: {{prototypes: 4, queue: {{size: 16}}}}}}
train:
  epochs: 2
  log_every: 1
  select: best
  checkpoint: {{every: 2}}
  validate_on: {{split: validation, gallery: validation_photos, metric: class/a_to_b/map, early_stop: 5}}
evaluate:
  - {{split: test, gallery: test_photos, relevance: [class], precision_at: [5]}}
  - {{split: test, gallery: test_photos, relevance: [class], distance: euclidean}}
"""


def made(folder: Path, field: str) -> Path:
    """The job file over a set of vectors or of images."""
    make, kind = (vector, "mlp") if field == "x" else (picture, "cnn")
    write_couples(folder / "set", make=make, each=(12, 16))
    job = folder / "job.yaml"
    job.write_text(JOB.format(folder=folder, field=field, kind=kind))
    return job


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("field", ["x", "image"])
def test_a_training_by_class_is_continued_and_tested(tmp_path: Path, field: str) -> None:
    job, run, again = made(tmp_path, field), tmp_path / "run", tmp_path / "again"
    shown = " ".join(swamp("show", job).said.split())
    assert "each of the 48 entries of split train (sketch) is paired with one of the 64" in shown
    done = swamp("run", job, "--ranks", 2, "--run-dir", run)
    assert done.code == 0, done.said
    by_cosine, by_distance = json.loads((run / "result.json").read_text())["evaluations"]
    metrics = by_cosine["metrics"]["class/a_to_b"]
    assert (metrics["direction"], metrics["num_queries"], metrics["num_items"]) == ("sketch->photo", 36, 48)
    assert by_cosine["gallery"] == "test_photos"
    assert by_cosine["chance"]["class/b_to_a"]["map"] > 0
    assert by_distance["metrics"]["class/a_to_b"]["map"] == pytest.approx(metrics["map"])  # unit lengths

    # As if it had been killed after the commit before the last.
    shutil.copytree(run, again)
    (again / "result.json").unlink()
    newest = max((again / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    shutil.rmtree(newest)
    weights = sha256(run / "weights.safetensors")
    (again / "weights.safetensors").unlink()
    continued = swamp("run", job, "--ranks", 2, "--run-dir", again)
    assert continued.code == 0, continued.said
    assert sha256(again / "weights.safetensors") == weights

    # The same figures on one rank, and together with itself.
    asked = ["eval", run, "--run-dir", tmp_path / "alone"]
    assert swamp(*asked).code == 0
    assert json.loads((tmp_path / "alone" / "result.json").read_text())["evaluations"] == [
        by_cosine,
        by_distance,
    ]
    both = swamp("eval", run, "--with", run, "--run-dir", tmp_path / "both")
    assert both.code == 0, both.said
    averaged = json.loads((tmp_path / "both" / "result.json").read_text())["evaluations"]
    assert [each["metrics"]["class/a_to_b"]["map"] for each in averaged] == [
        pytest.approx(metrics["map"], abs=1e-9),
        pytest.approx(metrics["map"], abs=1e-9),
    ]

    # Other negatives are another training; other names are not.
    (again / "result.json").unlink()
    other = swamp("run", job, "data.partners.negatives=none", "--ranks", 2, "--run-dir", again)
    refused(other, "data.partners.negatives")


def test_what_cannot_be_drawn_or_tested_is_told_at_once(tmp_path: Path) -> None:
    job = made(tmp_path, "x")
    said = swamp("run", job, "data.partners.split=test_photos", "--run-dir", tmp_path / "run")
    refused(said, "evaluate reports on this split", "4 of 4 classes of split 'train'")
