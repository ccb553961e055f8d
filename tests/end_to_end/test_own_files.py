"""Data sets in plain files, from a recipe to figures, through the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from swamp_dist.cli import app
from swamp_dist.data.manifest import load_manifest
from tests.end_to_end.command import ROOT, swamp

JOB = """\
name: mine
data: {{shards: {folder}/set, a: {a}, b: {b}, entries: 16, workers: 0}}
model: {{embedding_dim: 32, a: {{kind: mlp}}, b: {{kind: mlp}}}}
objective: {{swamp: {{prototypes: 8, queue: {{size: 16}}}}}}
train: {{epochs: 1, optimizer: {{lr: 1.0e-3}}}}
evaluate: [{{split: test, relevance: [pair, class]}}]
"""
RECIPES = dict(
    re.findall(r"```yaml\n# (\S+)\n(.*?)```", (ROOT / "shards" / "README.md").read_text(), re.DOTALL)
)
"""Those that the README shows, by name."""


def here(*arguments: object) -> str:
    """Run `swamp` in this process to its good end; what it said."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def write_pairs(folder: Path, count: int = 40) -> None:
    """Images with two captions each; every fourth video is for the test."""
    random = np.random.default_rng(0)
    np.save(folder / "images.npy", random.normal(size=(count, 8)).astype(np.float32))
    owner = [f"img {i // 2}.jpg" for i in range(2 * count)]
    captions = random.normal(size=(2 * count, 6)).astype(np.float32)
    np.savez(folder / "captions.npz", features=captions, image=np.array(owner))
    rows = [
        f"img {i}.jpg,{'cat' if i % 3 else 'dog'},{'test' if i // 2 % 4 == 0 else 'train'},v{i // 2}"
        for i in range(count)
    ]
    (folder / "items.csv").write_text("\r\n".join(["\ufeffid,class,split,video", *rows]))


def test_pairs_in_arrays_are_built_and_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path)
    recipe, job = tmp_path / "pairs.yaml", tmp_path / "job.yaml"
    recipe.write_text(RECIPES["pairs.yaml"])
    job.write_text(JOB.format(folder=tmp_path, a="caption", b="image"))

    assert "source.b.belongs_to" in here("show", recipe)
    here("shards", "build", recipe, "--out", tmp_path / "set")
    manifest = load_manifest(tmp_path / "set")
    assert {name: len(manifest.split(name)) for name in ("train", "test")} == {"train": 30, "test": 10}
    assert manifest.record.classes == 2
    ran = swamp("run", job, "--run-dir", tmp_path / "run")
    assert ran.code == 0, ran.said
    (evaluation,) = json.loads((tmp_path / "run" / "result.json").read_text())["evaluations"]
    assert evaluation["metrics"]["pair/a_to_b"]["num_queries"] == 20
    assert evaluation["metrics"]["class/a_to_b"]["num_items"] == 10
