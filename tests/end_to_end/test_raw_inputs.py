"""From files of pictures and captions to figures: the example of shards/README.md, performed as it stands."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch
import yaml

from swamp_dist import embed, load_model
from tests.data.image_sets import encode, smooth
from tests.end_to_end.command import COMMAND, ROOT, ended, ran, rank_pids, refused, sha256, start, until

_PICTURES = 60
"""48 for training: 3 steps per epoch."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job file, its shard set built beside it."""
    folder = tmp_path_factory.mktemp("pictures")
    section = (ROOT / "shards" / "README.md").read_text().partition("## Images and texts")[2]
    blocks = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", section, re.DOTALL))
    (folder / "raw").mkdir()
    for number in range(_PICTURES):
        colours = ("red", "green", "blue")
        picture = smooth(number, 60, 45) // 2
        picture[..., number % 3] = 255
        (folder / "raw" / f"p{number:02d}.jpg").write_bytes(encode(picture))
        texts = f"A {colours[number % 3]} picture\nnumber {number}, {colours[number % 3]}\n"
        (folder / "raw" / f"p{number:02d}.txt").write_text(texts)
    (folder / "pack.py").write_text(blocks["pictures/pack.py"])
    packed = ran(["env", "-C", str(folder), sys.executable, "pack.py", "raw"], PYTHONPATH=str(ROOT))
    assert packed.code == 0, packed.said
    settings = yaml.safe_load(blocks["pictures/job.yaml"])
    settings["data"]["shards"] = str(folder / "data" / "pictures")
    (folder / "job.yaml").write_text(yaml.safe_dump(settings))
    return folder / "job.yaml"


def train(job: Path, name: str, *overrides: str, ranks: int = 1) -> Path:
    run_dir = job.parent / name
    done = ran([*COMMAND, "run", str(job), *overrides, "--ranks", str(ranks), "--run-dir", str(run_dir)])
    assert done.code == 0, done.said
    return run_dir


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_files_become_figures_and_the_model_embeds_files(job: Path) -> None:
    run_dir = train(job, "whole")
    result = json.loads((run_dir / "result.json").read_text())
    assert result["steps"] == 12
    assert {"pillow", "jpg", "webp"} <= result["provenance"]["versions"].keys()
    model = load_model(run_dir, device="cpu")
    split = embed(model, "test")
    assert len(split.b.rows) == 12
    assert len(split.a.rows) == 24
    files = [(job.parent / "raw" / f"{key}.jpg").read_bytes() for key in split.keys]
    torch.testing.assert_close(model.embed("image", files), split.b.rows)
    alike = model.embed("caption", ["A red picture", "a RED picture!"])
    assert torch.equal(alike[0], alike[1])
    figure = model.evaluate("test").metrics["pair/a_to_b"].r_at_1
    assert figure == result["evaluations"][0]["metrics"]["pair/a_to_b"]["r_at_1"]


def test_an_encoder_that_does_not_fit_its_field_is_told_before_a_rank_starts(job: Path) -> None:
    swapped = ("data.a=image", "data.b=caption")
    done = ran([*COMMAND, "run", str(job), *swapped, "--run-dir", str(job.parent / "swapped")])
    refused(done, "model.a: encoder 'bag_of_words' takes texts, but the field holds images", "to cnn")
    assert "model.b: encoder 'cnn' takes images, but the field holds texts" in done.said
    assert not (job.parent / "swapped" / "events.jsonl").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_that_were_killed_go_on_to_the_same_weights(job: Path) -> None:
    long = ("train.epochs=12", "train.checkpoint.every=6", "objective.swamp.prototypes_start=kmeans")
    whole = train(job, "two", *long, ranks=2)
    run_dir, console = job.parent / "killed", job.parent / "console.txt"
    process = start("run", job, *long, "--ranks", 2, "--run-dir", run_dir, console=console)
    until(lambda: any((run_dir / "checkpoints").glob("step-1*")), process, console)
    for pid in rank_pids(process):
        os.kill(pid, signal.SIGKILL)
    assert ended(process, console).code != 0  # the same command goes on at once: no loader keeps the folder
    assert not (run_dir / "result.json").exists()
    train(job, "killed", *long, "data.workers=0", ranks=2)
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("started") == 2
    assert sha256(run_dir / "weights.safetensors") == sha256(whole / "weights.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", [0, 3])
def test_micro_batches_and_zero_stages_train_on_raw_inputs(job: Path, stage: int) -> None:
    plain = train(job, f"plain-{stage}", f"engine.zero_stage={stage}", ranks=2)
    pieces = train(job, f"pieces-{stage}", f"engine.zero_stage={stage}", "engine.micro_batch=4", ranks=2)
    losses = [
        [json.loads(line)["loss/total"] for line in (folder / "metrics.jsonl").read_text().splitlines()
         if "loss/total" in line]
        for folder in (plain, pieces)
    ]  # fmt: skip
    assert losses[0]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
