"""SCAN's cross attention through the command: trained, evaluated, continued; what it cannot do is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swamp_dist import embed, load_model
from swamp_dist.errors import UserError
from tests.end_to_end.command import refused, sha256
from tests.end_to_end.test_sets import JOB, MODULE, RECIPE, swamp

CHANGES = {
    "name: par": "name: cross",
    "sets: {kind: par, queries: 6, heads: 2, temperature: 0.5}": "sets: {kind: cross_attention, queries: b}",
    "swamp: {prototypes: 8, queue: {size: 32}}": "swamp: {weight: 0}",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cross")
    (folder / "my_regions.py").write_text(MODULE)
    (folder / "recipe.yaml").write_text(RECIPE)
    job = JOB
    for old, new in CHANGES.items():
        assert old in job
        job = job.replace(old, new)
    (folder / "job.yaml").write_text(job.replace("data/regions", str(folder / "data" / "regions")))
    built = swamp(folder, "shards", "build", "recipe.yaml")
    assert built.code == 0, built.said
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_stage_trains_evaluates_and_is_evaluated_again(folder: Path) -> None:
    done = swamp(folder, "run", "job.yaml", "--ranks", "2", "--run-dir", "runs/two")
    assert done.code == 0, done.said
    result = json.loads((folder / "runs" / "two" / "result.json").read_text())
    figures = result["evaluations"][0]["metrics"]
    assert (figures["pair/a_to_b"]["num_items"], figures["pair/b_to_a"]["num_queries"]) == (24, 24)
    shown = swamp(folder, "show", "job.yaml", "--cost")
    assert "scores of pairs" in shown.said
    model = load_model(folder / "runs" / "two", device="cpu")
    assert model.evaluate("test").metrics["pair/a_to_b"].r_at_1 == figures["pair/a_to_b"]["r_at_1"]
    with pytest.raises(UserError, match="scores pairs of items and makes no embeddings"):
        embed(model, "test")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_in_two_parts_ends_with_the_same_weights(folder: Path) -> None:
    whole = swamp(folder, "run", "job.yaml", "--run-dir", "runs/whole")
    assert whole.code == 0, whole.said
    first = swamp(folder, "run", "job.yaml", "train.epochs=2", "--run-dir", "runs/parts")
    assert first.code == 0, first.said
    (folder / "runs" / "parts" / "result.json").unlink()
    second = swamp(folder, "run", "job.yaml", "--run-dir", "runs/parts")
    assert second.code == 0, second.said
    weights = [sha256(folder / "runs" / name / "weights.safetensors") for name in ("whole", "parts")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("objective.swamp.weight=0.5", "makes no embeddings, so there is nothing to assign to prototypes"),
        ("objective.contrastive.form=infonce", "expected a hinge, all or hardest"),
        ("engine.micro_batch=4", "the gradient is cached at embeddings"),
        ("objective.contrastive.columns=ring", "sets are gathered"),
        ("model.a={kind: mlp}", "takes one vector per item"),
        ("model.b={kind: gru}", "compares sets with sets, and the encoder of model.b gives one vector"),
    ],
)
def test_what_needs_embeddings_is_refused(folder: Path, override: str, said: str) -> None:
    refused(swamp(folder, "run", "job.yaml", override, "--run-dir", "runs/refused"), said)
