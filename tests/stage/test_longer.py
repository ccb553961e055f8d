"""More epochs of a finished or stopped run, under every schedule, through the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from swamp_dist.config import TrainSettings
from swamp_dist.errors import UserError
from swamp_dist.stage.longer import planned_epochs
from swamp_dist.train.weights import load_weights
from tests.end_to_end.command import refused, swamp, write_job

COSINE = ("train.schedule.kind=cosine", "train.schedule.floor=0.25", "train.epochs=1", "evaluate=[]")


def rates(run_dir: Path) -> list[float]:
    """Learning rate of every step."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row["optim/lr"] for row in rows if "optim/lr" in row]


def test_a_longer_run_is_bit_for_bit_one_that_was_as_long_from_the_start(
    trained_once: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    job, run = write_job(tmp_path, tiny_shards), shutil.copytree(trained_once, tmp_path / "run")
    before = load_weights(run)
    longer = swamp("run", job, "train.epochs=3", "--run-dir", run)
    assert longer.code == 0, longer.said
    assert "train.epochs: was 2, asked 3: the constant learning rate goes on" in longer.said
    assert f"the result of its 2 epochs is kept as {run / 'result-step-16.json'}" in longer.said
    whole = swamp("run", job, "train.epochs=3", "--run-dir", tmp_path / "whole")
    assert whole.code == 0, whole.said
    assert (run / "weights.safetensors").read_bytes() == (tmp_path / "whole/weights.safetensors").read_bytes()
    results = [json.loads((each / "result.json").read_text()) for each in (run, tmp_path / "whole")]
    assert results[0]["evaluations"] == results[1]["evaluations"]
    kept = load_weights(Path(f"{run}@16"))
    assert all(torch.equal(x, before.tensors[name]) for name, x in kept.tensors.items())
    again = swamp("run", job, "train.epochs=3", "--run-dir", run)
    assert "is done already" in again.said


@pytest.fixture(scope="module")
def cosine(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one epoch of 8 steps under a cosine schedule, its job beside it."""
    folder = tmp_path_factory.mktemp("cosine")
    done = swamp("run", write_job(folder, tiny_shards), *COSINE, "--run-dir", folder / "run")
    assert done.code == 0, done.said
    return folder


@pytest.mark.slow
def test_a_cosine_holds_its_end(cosine: Path, tmp_path: Path) -> None:
    run = shutil.copytree(cosine / "run", tmp_path / "run")
    held = swamp("run", cosine / "job.yaml", *COSINE, "train.epochs=2", "--run-dir", run)
    assert held.code == 0, held.said
    assert (
        "was 1, asked 2: after epoch 1 the learning rate stays where its schedule ends, 0.00025" in held.said
    )
    assert rates(run)[:8] == rates(cosine / "run")
    assert rates(run)[8:] == [0.00025] * 8


@pytest.mark.slow
def test_a_cosine_is_planned_anew_where_that_is_asked(cosine: Path, tmp_path: Path) -> None:
    run, replan = shutil.copytree(cosine / "run", tmp_path / "run"), "train.schedule.extend=replan"
    done = swamp("run", cosine / "job.yaml", *COSINE, "train.epochs=2", replan, "--run-dir", run)
    assert done.code == 0, done.said
    assert "was 1, asked 2: the schedule is laid over 2 epochs from where the run goes on" in done.said
    assert rates(run)[:8] == rates(cosine / "run")
    assert rates(run)[8] == pytest.approx(0.001 * (0.25 + 0.75 / 2))  # half way down the longer schedule
    assert rates(run)[8:] == sorted(rates(run)[8:], reverse=True)


def test_what_cannot_be_made_longer_says_why(cosine: Path, tmp_path: Path) -> None:
    run, job = shutil.copytree(cosine / "run", tmp_path / "run"), cosine / "job.yaml"
    refused(
        swamp("run", job, *COSINE, "train.epochs=2", "train.optimizer.lr=0.01", "--run-dir", run),
        "train.epochs: was 1, asked 2",
        "train.optimizer.lr: was 0.001, asked 0.01",
    )
    shutil.rmtree(run / "checkpoints")
    refused(
        swamp("run", job, *COSINE, "train.epochs=2", "--run-dir", run),
        "a finished stage without checkpoints",
        f"train.init_from={run}",
    )


def test_a_schedule_that_ended_at_zero_is_not_held() -> None:
    ended = TrainSettings.model_validate({"epochs": 4, "schedule": {"kind": "cosine"}})
    with pytest.raises(UserError, match=r"was 2, asked 4.*(.|\n)*train\.schedule\.extend=replan"):
        planned_epochs({"train.epochs": 2}, ended)
    replanned = TrainSettings.model_validate(
        {"epochs": 4, "schedule": {"kind": "cosine", "extend": "replan"}}
    )
    assert planned_epochs({"train.epochs": 2}, replanned) == 4
    shorter = TrainSettings.model_validate({"epochs": 1, "schedule": {"kind": "cosine"}})
    assert planned_epochs({"train.epochs": 2}, shorter) == 1  # which the fingerprint refuses
