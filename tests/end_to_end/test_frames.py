"""Clips of raw frames through the command: built, trained as a sequence, evaluated and embedded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from swamp_dist import UserError, embed, load_model
from swamp_dist.data.reader import open_reader
from tests.end_to_end.command import COMMAND, ROOT, Ended, ran, refused

MODULE = '''
import numpy as np
from swamp_dist import RawSplit, Sample

WAYS = ("goes right", "goes left", "goes down", "goes up")
COLOURS = ("red", "green", "blue")

def open_splits(entries):
    return {name: split(name, count) for name, count in entries.items()}

def item_fields(entries):
    return ()

def clip(way, colour):
    """A square that crosses the middle: the first frame of all ways is one and the same."""
    frames = np.zeros((5, 3, 16, 16), dtype=np.uint8)
    for k, step in enumerate((0, 2, 4, 5, 6)):
        move = step if way in (0, 2) else -step
        x, y = (6 + move, 6) if way < 2 else (6, 6 + move)
        frames[k, colour, max(y, 0):y + 4, max(x, 0):x + 4] = 255
    return frames

def split(name, count):
    keys = [f"{name}{i}" for i in range(count)]
    def read(i):
        way, colour = i % 4, i // 4 % 3
        text = f"{COLOURS[colour]} square {WAYS[way]}"
        return Sample(keys[i], {"frames": clip(way, colour)}, way, captions=(text,))
    return RawSplit(keys, read, lambda: (read(i).captions for i in range(count)))
'''
RECIPE = """\
name: squares
entries_per_shard: 32
source: {kind: python, target: my_squares, options: {entries: {train: 96, test: 12}}}
"""
JOB = """\
name: squares
data: {shards: SET, a: text, b: frames, entries: 24, workers: 0}
model:
  embedding_dim: 64
  a: {kind: gru, buckets: 64, width: 16, output: words, unit: true, max_words: 6}
  b: {kind: frames, depth: 2, width: 8, output: frames, unit: true}
  sets: {kind: par, queries: 4, temperature: 0.5}
objective:
  contrastive: {form: infonce, temperature: 0.1}
  swamp: {weight: 0.1, prototypes: 8, queue: {size: 48}}
train: {epochs: 15, optimizer: {lr: 5.0e-3}}
evaluate: [{split: test, relevance: [pair, class]}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder with module, recipe, job and the built set."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "my_squares.py").write_text(MODULE)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "job.yaml").write_text(JOB.replace("SET", str(folder / "data" / "squares")))
    built = swamp(folder, "shards", "build", "recipe.yaml")
    assert built.code == 0, built.said
    return folder


def swamp(folder: Path, *arguments: str) -> Ended:
    return ran(["env", "-C", str(folder), *COMMAND, *arguments], PYTHONPATH=str(ROOT))


def mean_average_precision(run_dir: Path) -> float:
    metrics = json.loads((run_dir / "result.json").read_text())["evaluations"][0]["metrics"]
    return float(metrics["class/a_to_b"]["map"])


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_motion_is_learned_from_all_frames_and_not_from_the_first(folder: Path) -> None:
    for name, overrides in {"all": (), "first": ("model.b.still=1",)}.items():
        done = swamp(folder, "run", "job.yaml", *overrides, "--run-dir", f"runs/{name}")
        assert done.code == 0, done.said
    moving, still = (mean_average_precision(folder / "runs" / name) for name in ("all", "first"))
    assert moving > 60
    assert still < 40, "first frames of a colour are equal: nothing tells four ways apart"

    model = load_model(folder / "runs/all", device="cpu")
    split, reader = embed(model, "test"), open_reader(model.manifest, "test", ("frames",))
    frames = np.stack([entry.arrays["frames"] for entry in reader.read(range(12))])
    torch.testing.assert_close(model.embed("frames", frames), split.b.rows)
    with pytest.raises(UserError, match="expected pixels as uint8, found torch.float32"):
        model.embed("frames", frames.astype(np.float32))
    with pytest.raises(UserError, match=r"expected shape \(n, 5, 3, 16, 16\), found \(12, 4, 3, 16, 16\)"):
        model.embed("frames", frames[:, :4])


def test_a_frame_that_clips_do_not_have_ends_the_command_and_costs_count_pixels(folder: Path) -> None:
    done = swamp(folder, "run", "job.yaml", "model.b.still=6", "--run-dir", "runs/wrong")
    refused(done, "still = 6, but clips have 5 frames", "Fix: still = 1 .. 5")
    shown = swamp(folder, "show", "job.yaml", "--cost")
    assert shown.code == 0, shown.said
    assert "pixels" in shown.said
