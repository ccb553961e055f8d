"""Doodle2Search with SwAMP on top through the command: any number of ranks, killed, continued, refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from swamp_dist import load_model
from swamp_dist.evaluate.results import to_json
from tests.data.class_vector_sets import add_class_vectors
from tests.data.partner_sets import picture, write_couples
from tests.end_to_end.command import ended, rank_pids, refused, sha256, start, swamp, until

JOB = """\
name: doodles
data:
  shards: {folder}/set
  a: image
  b: image
  entries: 16
  workers: 0
  cache: memory
  images: {{size: 16, crop: none}}
  partners: {{split: train_photos, negatives: near, negative_temperature: 4, names: {{a: sketch, b: photo}}}}
model:
  embedding_dim: 12
  length: free
  doodle2search: {{word_hidden: 16, domain_hidden: 8, dropout: 0}}
  a: {{kind: doodle_cnn, channels: [4, 8], hidden: 16, dropout: 0}}
  b: {{kind: doodle_cnn, channels: [4, 8], hidden: 16, dropout: 0}}
objective:
  contrastive: {{weight: 0}}
  triplet: {{weight: 1}}
  semantic: {{weight: 1}}
  domain: {{weight: 1, ramp: batch}}
  swamp: {{weight: 0.1, prototypes: 8, temperature: 0.25, eta: 5, queue: {{size: 32}}}}
train:
  epochs: 4
  log_every: 1
  select: best
  optimizer: {{kind: sgd, lr: 0.01, weight_decay: 5.0e-4}}
  checkpoint: {{every: 2, keep: 50}}
  validate_on:
    {{split: validation, gallery: validation_photos, distance: euclidean, metric: class/a_to_b/map}}
evaluate:
  - {{split: test, gallery: test_photos, relevance: [class], distance: euclidean, precision_at: [5]}}
  - {{split: test, gallery: test_photos, relevance: [class]}}
engine: {{threads: 1}}
"""
TERMS = ("loss/triplet", "loss/semantic", "loss/domain")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doodles")
    manifest = write_couples(folder / "set", make=picture, each=(12, 16))
    add_class_vectors(manifest, np.random.default_rng(0).standard_normal((manifest.classes, 6)))
    (folder / "job.yaml").write_text(JOB.format(folder=folder))
    return folder / "job.yaml"


def rows(run: Path) -> list[dict[str, float]]:
    """What was logged of every step."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if "loss/total" in row]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_and_two_ranks_agree_and_a_killed_run_ends_in_the_same_weights(job: Path, tmp_path: Path) -> None:
    one, two, killed = (tmp_path / name for name in ("one", "two", "killed"))
    for run, ranks in ((one, 1), (two, 2)):
        done = swamp("run", job, "--ranks", ranks, "--run-dir", run)
        assert done.code == 0, done.said
    assert len(rows(one)) == 12
    for mine, theirs in zip(rows(one), rows(two), strict=True):
        terms = sum(mine[name] for name in TERMS) + 0.1 * mine.get("loss/swamp", 0)
        assert mine["loss/total"] == pytest.approx(terms, rel=1e-5)
        for name in (*TERMS, "loss/total"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4)
    assert "loss/swamp" in rows(one)[-1]
    by_distance, by_cosine = json.loads((one / "result.json").read_text())["evaluations"]
    found = by_distance["metrics"]["class/a_to_b"]["map"], by_cosine["metrics"]["class/a_to_b"]["map"]
    assert found[0] != found[1]  # lengths are free, and cosines do not see them
    model, asked = load_model(one, device="cpu"), {"gallery": "test_photos", "relevance": ("class",)}
    again = model.evaluate("test", distance="euclidean", precision_at=[5], **asked)
    assert to_json(again) == by_distance
    assert to_json(model.evaluate("test", **asked)) == by_cosine

    console = tmp_path / "console"
    process = start("run", job, "--ranks", 2, "--run-dir", killed, console=console)
    until(lambda: (killed / "checkpoints" / "step-4").is_dir(), process, console)
    for pid in rank_pids(process):
        os.kill(pid, signal.SIGKILL)
    assert ended(process, console).code != 0
    again = swamp("run", job, "--ranks", 2, "--run-dir", killed)
    assert again.code == 0, again.said
    assert sha256(killed / "weights.safetensors") == sha256(two / "weights.safetensors")

    # From the middle at another number of ranks and another stage: momentum and queue go along.
    other = tmp_path / "other"
    shutil.copytree(two, other)
    (other / "result.json").unlink()
    (other / "weights.safetensors").unlink()
    for folder in (other / "checkpoints").glob("step-*"):
        if int(folder.name[5:]) > 6:
            shutil.rmtree(folder)
    dealt = swamp("run", job, "engine.zero_stage=2", "--ranks", 1, "--run-dir", other)
    assert dealt.code == 0, dealt.said
    for mine, theirs in zip(rows(other), rows(two), strict=True):
        assert mine["loss/total"] == pytest.approx(theirs["loss/total"], rel=1e-4)


def test_what_is_missing_is_told_before_a_rank_starts(job: Path, tmp_path: Path) -> None:
    run = ["run", job, "--run-dir", tmp_path / "run"]
    refused(
        swamp(*run, "data.partners.negatives=none", "model.doodle2search=null"),
        "a triplet needs a negative, and data.partners.negatives = none",
        "the model has no heads for it",
    )
    refused(
        swamp(*run, "objective.semantic.weight=0", "objective.domain.weight=0"),
        "neither objective.semantic nor objective.domain asks its heads",
    )
