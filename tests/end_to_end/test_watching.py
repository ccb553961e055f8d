"""Real runs, seen and stopped from outside as a user does."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from swamp_dist.config import StageSettings
from swamp_dist.doctor.stage import checkpoint_bytes
from swamp_dist.loading import load
from swamp_dist.runs.events import read_events
from swamp_dist.train.checkpoint_folder import newest_size
from tests.end_to_end.command import ended, rank_pids, start, suspend, swamp, until, write_job

LONG = ("train.epochs=200", "train.checkpoint.every=8", "train.validate_on.every=20")
"""1,600 steps: does not end by itself while it is looked at."""


@pytest.fixture
def long_job(tiny_shards: Path, tmp_path: Path) -> Path:
    return write_job(tmp_path, tiny_shards)


def seen(*folders: Path) -> list[dict[str, Any]]:
    """The runs that `swamp status --json` lists."""
    shown = swamp("status", *folders, "--json")
    assert shown.code == 0, shown.said
    return [run for group in json.loads(shown.said)["groups"] for run in group["runs"]]


def committed(run_dir: Path) -> bool:
    return any(event["event"] == "committed" for event in read_events(run_dir / "events.jsonl"))


def test_a_finished_run(trained_once: Path) -> None:
    (run,) = seen(trained_once)
    assert (run["state"], run["step"], run["total"], run["restarts"]) == ("done", 16, 16, 0)
    assert run["outcome"]["metric"] == "test pair/mean/r_at_1"
    assert run["world_size"] == 1
    assert "done" in swamp("status", trained_once.parent).said
    stopped = swamp("cancel", trained_once)
    assert stopped.code == 0
    assert "done already" in stopped.said


@pytest.mark.slow
def test_a_run_cancelled_and_continued(long_job: Path, tmp_path: Path) -> None:
    run_dir, console = tmp_path / "runs" / "one", tmp_path / "console"
    process = start("run", long_job, *LONG, "--run-dir", run_dir, console=console)
    until(lambda: committed(run_dir), process, console)
    (run,) = seen(tmp_path / "runs")
    assert run["state"] == "running", run
    assert run["step"] >= 8
    assert run["total"] == 1600
    assert 0 < run["seconds_left"] < 1600
    stopped = swamp("cancel", run_dir)
    assert stopped.code == 0, stopped.said
    assert ended(process, console).code == 75
    (run,) = seen(run_dir)
    assert run["state"] == "cancelled"
    assert f"saved at step {run['step']} and ended" in stopped.said
    assert run["committed"] == run["step"]
    # continued to an end that is near, it tells both starts
    fewer = f"train.epochs={run['step'] // 8 + 1}"
    done = swamp("run", long_job, *LONG, fewer, "--run-dir", run_dir)
    assert done.code == 0, done.said
    (run,) = seen(run_dir)
    assert (run["state"], run["restarts"]) == ("done", 1)
    shown = swamp("logs", run_dir, "--rank", 0, "--lines", 0).said
    assert shown.index("---- start 1,") < shown.index("asked to stop") < shown.index("---- start 2,")
    assert "(start 1: preempted at step" in shown


def test_a_run_killed_without_a_word(long_job: Path, tmp_path: Path) -> None:
    run_dir, console = tmp_path / "one", tmp_path / "console"
    process = start("run", long_job, *LONG, "--run-dir", run_dir, console=console)
    until(lambda: committed(run_dir), process, console)
    ranks = rank_pids(process)
    suspend(process.pid, *ranks)  # so that none sees the other die
    assert seen(run_dir)[0]["state"] == "stalled"
    for pid in (process.pid, *ranks):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    (run,) = seen(run_dir)
    while run["state"] == "stalled":  # the rank is not ours to wait for
        (run,) = seen(run_dir)
    assert run["state"] == "failed"
    assert run["reason"].startswith(f"stopped without a word at step {run['step']}"), run
    assert run["step"] >= 8
    assert "nothing works on this run" in swamp("cancel", run_dir, "--now").said


def test_a_checkpoint_takes_about_the_space_that_the_doctor_expects(
    trained_once: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    settings = load(write_job(tmp_path, tiny_shards), StageSettings, ())
    written = newest_size(trained_once / "checkpoints")
    assert 0.7 * written < checkpoint_bytes(settings) < 1.3 * written


PIPELINE = """\
name: p
stages:
  bad: {{job: {job}, overrides: [train.optimizer.lr=1000, train.optimizer.weight_decay=1]}}  # soon infinite
  good: {{job: {job}}}
  last: {{job: {job}, after: [bad], overrides: ["train.init_from={{runs.bad}}"]}}
retries: 0
"""


@pytest.mark.slow
def test_a_pipeline_with_a_failed_stage(long_job: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(PIPELINE.format(job=long_job))
    done = swamp("pipeline", file, "--run-dir", tmp_path / "p")
    assert done.code == 1, done.said
    runs = {run["key"]: run for run in seen(tmp_path / "p")}
    assert {key: run["state"] for key, run in runs.items()} == {
        "bad": "failed",
        "good": "done",
        "last": "blocked",
    }
    assert "finite" in runs["bad"]["reason"]
    assert runs["last"]["reason"] == "waits for bad, which is failed"
    assert "not running; the same command continues it" in swamp("status", tmp_path / "p").said


@pytest.mark.slow
def test_a_pipeline_is_cancelled_with_its_stage(long_job: Path, tmp_path: Path) -> None:
    file, console = tmp_path / "p.yaml", tmp_path / "console"
    file.write_text(f"name: p\nstages: {{one: {{job: {long_job}, overrides: {json.dumps(LONG)}}}}}\n")
    process = start("pipeline", file, "--run-dir", tmp_path / "p", console=console)
    until(lambda: committed(tmp_path / "p" / "one"), process, console)
    refused = swamp("cancel", tmp_path / "p" / "one")
    assert refused.code == 2
    assert f"swamp cancel {tmp_path / 'p'}" in refused.said
    stopped = swamp("cancel", tmp_path / "p")
    assert stopped.code == 0, stopped.said
    process.wait(60)
    (run,) = seen(tmp_path / "p")
    assert run["state"] in ("cancelled", "preempted"), run
    assert run["committed"] == run["step"]
