"""A blend through the command: shown, trained, stopped and continued, its shares logged, its sets kept to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.command import refused, sha256, swamp

RECIPE = """\
name: {name}
source: {{kind: synthetic, seed: {seed}, classes: 4, per_class: 60, dim: 8, splits: {{
  train: {{classes: [0, 4], per_class: {train}}}, validation: {{classes: [0, 4], per_class: 4}}}}}}
entries_per_shard: 30
"""
JOB = """\
name: blended
data:
  shards: {folder}/x
  blend:
    x: {{shards: {folder}/x, recipe: {folder}/x.yaml, share: 0.75}}
    y: {{shards: {folder}/y, recipe: {folder}/y.yaml, share: 0.25}}
  a: a
  b: b
  entries: 16
  workers: 0
model: {{embedding_dim: 8, a: {{kind: mlp, hidden: [8]}}, b: {{kind: mlp, hidden: [8]}}}}
objective: {{swamp: {{prototypes: 4, queue: {{size: 16}}}}}}
train: {{epochs: 2, log_every: 1, checkpoint: {{every: 4}}, validate_on: {{split: validation}}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blend")
    for name, seed, train in (("x", 1, 40), ("y", 2, 20)):
        (folder / f"{name}.yaml").write_text(RECIPE.format(name=name, seed=seed, train=train))
        built = swamp("shards", "build", folder / f"{name}.yaml", "--out", folder / name)
        assert built.code == 0, built.said
    (folder / "job.yaml").write_text(JOB.format(folder=folder))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_blend_is_trained_and_continued(folder: Path) -> None:
    job, run, again = folder / "job.yaml", folder / "run", folder / "again"
    shown = swamp("show", job)
    assert "data.blend.y.share" in shown.said, shown.said
    done = swamp("run", job, "--ranks", 2, "--run-dir", run)
    assert done.code == 0, done.said
    said = " ".join(done.said.split())
    assert "blend, x: 75.00% of the entries, 180 per epoch of the training, out of 160" in said

    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if "loss/total" in row]
    assert len(logged) == 30  # (160 + 80) // 16 steps in each of 2 epochs
    for row in logged:
        assert row["data/share/x"] == pytest.approx(0.75, abs=1 / (16 * row["step"]))
        assert row["data/share/x"] + row["data/share/y"] == pytest.approx(1)
    hashes = {n: json.loads((folder / n / "manifest.json").read_text())["hash"] for n in "xy"}
    assert json.loads((run / "result.json").read_text())["provenance"]["blend_sha256"] == hashes

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

    # Another set in the place of one of them is another training.
    (again / "result.json").unlink()
    other = swamp("shards", "build", folder / "y.yaml", "source.seed=3", "--out", folder / "z")
    assert other.code == 0, other.said
    ended = swamp("run", job, f"data.blend.y.shards={folder / 'z'}", "--ranks", 2, "--run-dir", again)
    refused(ended, "data.blend.y.manifest", "data.blend.y.shards=<the shard set it began with>")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_costs_prototypes_and_checks_take_every_set_of_a_blend(folder: Path) -> None:
    job = folder / "job.yaml"
    costs = swamp("show", job, "--cost")
    assert costs.code == 0, costs.said
    assert "compute: encoders" in costs.said
    kmeans = ("objective.swamp.prototypes_start=kmeans", "objective.swamp.kmeans.items=64")
    trained = swamp("run", job, *kmeans, "train.epochs=1", "--run-dir", folder / "kmeans")
    assert trained.code == 0, trained.said
    assert "128 embeddings of 64 entries" in " ".join(trained.said.split())
    sound = swamp("doctor", "--job", job)
    count = sum(len(list((folder / name).glob("*.tar"))) for name in "xy")
    assert f"{count} shards have their sizes, {count} of them their sha256" in " ".join(sound.said.split())

    damaged = next((folder / "y").glob("train-*.tar"))
    content = damaged.read_bytes()
    try:
        damaged.write_bytes(content[:1500] + bytes([content[1500] ^ 1]) + content[1501:])
        said = " ".join(swamp("doctor", "--job", job).said.split())
        assert "its sha256 is not the manifest's" in said
        checked = swamp("run", job, "data.verify=true", "--run-dir", folder / "checked")
        refused(checked, f"shard set {folder / 'y'}: 1 bad file(s)", damaged.name)
    finally:
        damaged.write_bytes(content)


@pytest.mark.slow
def test_a_blend_that_cannot_be_read_is_refused_with_the_fix(folder: Path) -> None:
    job, run = folder / "job.yaml", folder / "bad"
    absent = swamp("run", job, f"data.blend.y.shards={folder / 'w'}", "--run-dir", run)
    refused(absent, f"no shard set at {folder / 'w'}", f"swamp shards build {folder / 'y.yaml'}")
    refused(swamp("run", job, "data.blend.y.share=0.2", "--run-dir", run), "expected shares of sum 1")
    assert not run.exists()
