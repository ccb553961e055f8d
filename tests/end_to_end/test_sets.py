"""Regions and words through the command: a set is built, PAR trained, stopped, evaluated and asked."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from swamp_dist import embed, load_model
from swamp_dist.data.reader import open_reader
from tests.end_to_end.command import (
    COMMAND,
    ROOT,
    Ended,
    ended,
    ran,
    rank_pids,
    refused,
    sha256,
    start,
    until,
)

MODULE = """
import numpy as np
from swamp_dist import RawSplit, Sample

COLOURS = ("red", "green", "blue", "black")

def open_splits(entries):
    return {name: split(name, count) for name, count in entries.items()}

def item_fields(entries):
    return ()

def ragged_fields(entries):
    return ("regions",)

def split(name, count):
    keys = [f"{name}{i}" for i in range(count)]
    def read(i):
        random = np.random.default_rng([len(name), i])
        colours = random.integers(4, size=1 + i % 4)
        regions = (np.eye(4, 8)[colours] + random.normal(0, 0.1, (len(colours), 8))).astype(np.float32)
        texts = tuple(" and ".join(f"{how} {COLOURS[c]}" for c in colours) for how in ("a", "the"))
        return Sample(keys[i], {"regions": regions}, captions=texts)
    return RawSplit(keys, read, lambda: (read(i).captions for i in range(count)), "caption")
"""
RECIPE = """\
name: regions
entries_per_shard: 16
source: {kind: python, target: my_regions, options: {entries: {train: 48, validation: 10, test: 12}}}
"""
JOB = """\
name: par
data: {shards: data/regions, a: regions, b: caption, entries: 16, workers: 1}
model:
  embedding_dim: 96
  a: {kind: linear, unit: true, elements: 4}
  b: {kind: gru, buckets: 64, width: 12, output: words, unit: true, max_words: 16}
  sets: {kind: par, queries: 6, heads: 2, temperature: 0.5}
objective:
  contrastive: {form: hardest, reduction: sum}
  swamp: {prototypes: 8, queue: {size: 32}}
train:
  epochs: 4
  optimizer: {lr: 3.0e-3, clip_norm: 2.0}
  validate_on: {split: validation}
  checkpoint: {every: 3}
evaluate: [{split: test}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder with module, recipe, job and the built set."""
    folder = tmp_path_factory.mktemp("regions")
    (folder / "my_regions.py").write_text(MODULE)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "job.yaml").write_text(JOB.replace("data/regions", str(folder / "data" / "regions")))
    built = swamp(folder, "shards", "build", "recipe.yaml")
    assert built.code == 0, built.said
    assert swamp(folder, "shards", "verify", "data/regions").code == 0
    return folder


def swamp(folder: Path, *arguments: str) -> Ended:
    return ran(["env", "-C", str(folder), *COMMAND, *arguments], PYTHONPATH=str(ROOT))


def train(folder: Path, name: str, *overrides: str, ranks: int = 1) -> Path:
    done = swamp(folder, "run", "job.yaml", *overrides, "--ranks", str(ranks), "--run-dir", f"runs/{name}")
    assert done.code == 0, done.said
    return folder / "runs" / name


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_regions_and_words_become_figures_and_a_model_that_embeds_them(folder: Path) -> None:
    run_dir = train(folder, "whole")
    result = json.loads((run_dir / "result.json").read_text())
    assert result["steps"] == 12
    assert result["evaluations"][0]["metrics"]["pair/a_to_b"]["num_items"] == 24
    model = load_model(run_dir, device="cpu")
    split, reader = embed(model, "test"), open_reader(model.manifest, "test", ("regions",))
    assert split.a.rows.shape == (12, 96)
    regions = list(reader.stack("regions", range(12)))
    torch.testing.assert_close(model.embed("regions", regions), split.a.rows)
    one = torch.cat([model.embed("regions", [each]) for each in regions])
    torch.testing.assert_close(one, split.a.rows)
    figure = model.evaluate("test").metrics["pair/a_to_b"].r_at_1
    assert figure == result["evaluations"][0]["metrics"]["pair/a_to_b"]["r_at_1"]
    assert model.embed("caption", ["a red and a blue"]).shape == (1, 96)
    with pytest.raises(Exception, match=r"item 1: field 'regions' holds sets of vectors"):
        model.embed("regions", [regions[0], np.zeros((0, 8))])


def test_costs_are_shown_and_sets_without_use_are_told(folder: Path) -> None:
    shown = swamp(folder, "show", "job.yaml", "--cost")
    assert shown.code == 0, shown.said
    assert "encoders" in shown.said
    done = swamp(folder, "run", "job.yaml", "model.sets=null", "--run-dir", "runs/wrong")
    refused(done, "model.a and model.b: the encoder gives a set of vectors", "Fix: model.sets={kind: par}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_that_were_killed_go_on_to_the_same_weights(folder: Path) -> None:
    long = ("train.epochs=16", "train.checkpoint.every=6", "objective.swamp.prototypes_start=kmeans")
    whole = train(folder, "two", *long, ranks=2)
    run_dir, console = folder / "runs" / "killed", folder / "console.txt"
    process = start("run", folder / "job.yaml", *long, "--ranks", 2, "--run-dir", run_dir, console=console)
    until(lambda: any((run_dir / "checkpoints").glob("step-1*")), process, console)
    ranks = [psutil.Process(pid) for pid in rank_pids(process)]
    loaders = [child for rank in ranks for child in rank.children(recursive=True)]
    for rank in ranks:
        os.kill(rank.pid, signal.SIGKILL)
    assert ended(process, console).code != 0
    assert not psutil.wait_procs(loaders, timeout=60)[1]
    train(folder, "killed", *long, "data.workers=0", "data.cache=memory", ranks=2)
    assert sha256(run_dir / "weights.safetensors") == sha256(whole / "weights.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stage_takes_the_length_of_embeddings_from_weights_of_par(folder: Path) -> None:
    first = train(folder, "first")
    again = train(folder, "again", "model.embedding_dim=null", f"train.init_from={first}")
    assert load_model(again).settings.model.embedding_dim == 96
    overrides = ("model.embedding_dim=null", f"train.init_from={first}", "model.sets.temperature=0.1")
    done = swamp(folder, "run", "job.yaml", *overrides, "--run-dir", "runs/other")
    refused(done, "model.sets.temperature = 0.1, trained with 0.5")
