"""Data sets in plain files, from a recipe to figures, through the command."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from swamp_dist.cli import app
from swamp_dist.data.manifest import load_manifest
from tests.end_to_end.command import ROOT, environment, swamp

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


@pytest.mark.slow
def test_pairs_in_arrays_are_built_and_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path)
    recipe, job = tmp_path / "pairs.yaml", tmp_path / "job.yaml"
    recipe.write_text(RECIPES["pairs.yaml"])
    job.write_text(JOB.format(folder=tmp_path, a="caption", b="image"))

    assert "source.b.belongs_to" in here("show", recipe)
    (tmp_path / "table.yaml").write_text(RECIPES["table.yaml"])
    assert "source.captions" in here("show", tmp_path / "table.yaml")
    here("shards", "build", recipe, "--out", tmp_path / "set")
    manifest = load_manifest(tmp_path / "set")
    assert {name: len(manifest.split(name)) for name in ("train", "test")} == {"train": 30, "test": 10}
    assert manifest.record.classes == 2
    ran = swamp("run", job, "--run-dir", tmp_path / "run")
    assert ran.code == 0, ran.said
    (evaluation,) = json.loads((tmp_path / "run" / "result.json").read_text())["evaluations"]
    assert evaluation["metrics"]["pair/a_to_b"]["num_queries"] == 20
    assert evaluation["metrics"]["class/a_to_b"]["num_items"] == 10


def write_pictures(folder: Path, count: int = 60) -> None:
    """Pictures of one colour each, and a table that says which."""
    colours = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "grey": (120, 120, 120)}
    rows = ["image,caption"]
    for i in range(count):
        name, colour = list(colours.items())[i % 4]
        picture = Image.new("RGB", (40 + i % 5, 36), tuple(max(0, v - i) for v in colour))
        picture.save(folder / f"{i}.png")
        rows += [f'{i}.png,"a {name} picture, plain"', f"{i}.png,{name} no. {i}"]
    (folder / "captions.csv").write_text("\r\n".join(rows), "utf-8-sig")


@pytest.mark.slow
def test_tars_of_webdataset_are_imported_and_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tars").mkdir()
    write_pictures(tmp_path)
    names = [*(f"train-{i:03d}.tar" for i in range(10)), "test-0.tar"]
    for number, name in enumerate(names):
        with tarfile.open(tmp_path / "tars" / name, "w") as tar:
            for i in range(number * 4, number * 4 + (4 if name != "test-0.tar" else 20)):
                tar.add(tmp_path / f"{i}.png", f"{i:04d}.png")
                member = tarfile.TarInfo(f"{i:04d}.txt")
                member.size = len(text := f"picture no. {i}".encode())
                tar.addfile(member, io.BytesIO(text))
    recipe, job = tmp_path / "webdataset.yaml", tmp_path / "job.yaml"
    recipe.write_text(RECIPES["webdataset.yaml"])
    job.write_text(
        f"name: mine\ndata: {{shards: {tmp_path}/tars, a: text, b: image, entries: 16, workers: 0, "
        "images: {size: 32}}\n"
        "model: {embedding_dim: 32, a: {kind: bag_of_words}, b: {kind: cnn, depth: 3}}\n"
        "objective: {swamp: {prototypes: 8, queue: {size: 16}}}\n"
        "train: {epochs: 1, optimizer: {lr: 1.0e-3}}\nevaluate: [{split: test}]\n"
    )
    refused = swamp("run", job, "--run-dir", tmp_path / "run")
    assert refused.code == 2
    assert "It holds 11 tars" in refused.said
    assert "kind: webdataset" in refused.said
    assert "It holds 11 tars" in " ".join(here("show", job).split())
    here("shards", "build", recipe)
    here("shards", "verify", "data/mine")
    ran = swamp("run", job, f"data.shards={tmp_path}/data/mine", "--run-dir", tmp_path / "run")
    assert ran.code == 0, ran.said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 2
    assert result["evaluations"][0]["metrics"]["pair/a_to_b"]["num_queries"] == 20


@pytest.mark.timeout(600)  # four commands
def test_the_walk_of_the_readme_leads_from_a_table_to_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Performed as it stands there, beside nothing but the pictures; runs in processes of their own."""
    (walk,) = re.findall(r"```sh\n(cat > recipe.yaml.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(walk.splitlines()) <= 20
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")  # names in the table are cut less
    (tmp_path / "pictures").mkdir()
    write_pictures(tmp_path / "pictures")
    files, *commands = re.split(r"^swamp ", walk, flags=re.MULTILINE)
    subprocess.run(["sh", "-ec", files], check=True)
    said = ""
    for command in commands:
        words = shlex.split(command)
        if words[0] != "run":
            said = here(*words)
            continue
        done = subprocess.run(
            [sys.executable, "-P", "-m", "swamp_dist", *words],
            env=environment() | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert [command.split()[0] for command in commands] == ["shards", "run", "run", "table"]
    assert "R@1" in said
    assert "runs/contrast" in said
    manifest = load_manifest(tmp_path / "data" / "mine")
    assert {name: str(spec) for name, spec in manifest.record.fields.items()} == {
        "image": "image",
        "text": "text (items)",
    }
    assert {name: len(manifest.split(name)) for name in ("train", "test")} == {"train": 48, "test": 12}
    for name in ("swamp", "contrastive"):
        result = json.loads((tmp_path / "runs" / name / "result.json").read_text())
        assert result["steps"] == 15
        assert result["evaluations"][0]["metrics"]["pair/a_to_b"]["num_queries"] == 24
