"""Runs evaluated by `swamp eval`, alone and with their scores averaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from swamp_dist import embed, load_model
from swamp_dist.config import EvaluateSettings
from swamp_dist.distributed import alone
from swamp_dist.evaluate.results import to_json
from swamp_dist.evaluate.retrieval import evaluate_scores
from swamp_dist.evaluate.scored import Scored
from tests.end_to_end.command import refused
from tests.end_to_end.test_cross_attention import CHANGES
from tests.end_to_end.test_sets import JOB, MODULE, RECIPE, swamp, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of PAR and one of cross attention over one set, and one over another set."""
    folder = tmp_path_factory.mktemp("ensemble")
    (folder / "my_regions.py").write_text(MODULE)
    (folder / "recipe.yaml").write_text(RECIPE)
    job = JOB.replace("data/regions", str(folder / "data" / "regions"))
    (folder / "job.yaml").write_text(job)
    for old, new in CHANGES.items():
        job = job.replace(old, new)
    (folder / "cross.yaml").write_text(job)
    assert swamp(folder, "shards", "build", "recipe.yaml").code == 0
    train(folder, "one")
    train(folder, "two", "seed=1", "model.embedding_dim=48", "model.sets.queries=3")
    done = swamp(folder, "run", "cross.yaml", "train.epochs=1", "--run-dir", "runs/cross")
    assert done.code == 0, done.said
    return folder


def figures(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "result.json").read_text())
    return found


@pytest.mark.timeout(300)
def test_scores_of_two_runs_are_averaged(folder: Path) -> None:
    done = swamp(folder, "eval", "runs/one", "--with", "runs/two", "--split", "test", "--ranks", "2")
    assert done.code == 0, done.said
    assert "R@1" in done.said
    result = figures(folder / "runs" / "one-test+two")
    models = [load_model(folder / "runs" / name, device="cpu") for name in ("one", "two")]
    sides = [embed(model, "test") for model in models]
    scores = torch.stack([s.a.rows.double() @ s.b.rows.double().t() for s in sides]).float().mean(0)
    settings = EvaluateSettings(split="test")
    scored = Scored(scores, sides[0].a, sides[0].b, sides[0].keys)
    expected = evaluate_scores(scored, settings, "regions", "caption", alone())
    assert result["evaluations"][0]["metrics"] == to_json(expected)["metrics"]
    (averaged,) = result["provenance"]["averaged_with"].values()
    assert averaged == figures(folder / "runs" / "two")["weights_sha256"]
    assert result["weights_sha256"] == figures(folder / "runs" / "one")["weights_sha256"]


@pytest.mark.timeout(300)
def test_a_run_alone_and_one_without_embeddings(folder: Path) -> None:
    done = swamp(folder, "eval", "runs/one")
    assert done.code == 0, done.said
    assert "weights:     runs/one\n" in done.said
    found = figures(folder / "runs" / "one-evaluation")["evaluations"]
    assert found == figures(folder / "runs" / "one")["evaluations"]
    done = swamp(folder, "eval", "runs/cross", "--with", "runs/one", "--run-dir", "runs/both")
    assert done.code == 0, done.said
    assert figures(folder / "runs" / "both")["evaluations"][0]["metrics"]["pair/a_to_b"]["num_items"] == 24


@pytest.mark.timeout(300)
def test_what_cannot_be_averaged_is_refused(folder: Path) -> None:
    refused(swamp(folder, "eval", "runs/one", "--with", "runs/none"), "average_with.0 = runs/none")
    refused(swamp(folder, "eval", "runs/none"), "runs/none")
    (folder / "other.yaml").write_text(
        RECIPE.replace("name: regions", "name: other").replace("test: 12", "test: 11")
    )
    assert swamp(folder, "shards", "build", "other.yaml").code == 0
    train(folder, "other", f"data.shards={folder / 'data' / 'other'}", "train.epochs=1")
    done = swamp(folder, "eval", "runs/one", "--with", "runs/other", "--split", "test")
    refused(done, "have other entries")


@pytest.mark.timeout(300)
def test_a_step_is_averaged_and_weights_that_changed_are_told(folder: Path) -> None:
    asked = ("eval", "runs/one", "--with", "runs/two@9", "--split", "test", "--run-dir", "runs/step")
    done = swamp(folder, *asked)
    assert done.code == 0, done.said
    assert swamp(folder, *asked).code == 0
    swamp(folder, "eval", "runs/one", "--with", "runs/two", "--split", "test", "--run-dir", "runs/changed")
    weights = folder / "runs" / "two" / "weights.safetensors"
    weights.write_bytes((folder / "runs" / "one" / "weights.safetensors").read_bytes())
    done = swamp(
        folder, "eval", "runs/one", "--with", "runs/two", "--split", "test", "--run-dir", "runs/changed"
    )
    refused(done, "its weights have changed since")
