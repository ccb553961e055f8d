"""A pipeline whose Ray worker, and then whose driver, is killed: it goes on from the last commit, and nothing
that was done is done again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from swamp_dist.evaluate.results import read_result
from swamp_dist.runs.folder import RunDir
from tests.end_to_end.command import ended, refused, running, start, swamp, until, write_job

LONG = "[train.epochs=20, train.checkpoint.every=16, train.validate_on.every=80]"
"""160 steps: long enough to be caught in the middle."""
GRAPH = """\
name: killed
stages:
  pre: {{job: {job}, overrides: {long}}}
  fine: {{job: {job}, after: [pre], overrides: ["train.init_from={{runs.pre}}", *long]}}
ranks: 4
retries: 1
"""


def kinds(run_dir: Path) -> list[str]:
    return [str(e["event"]) for e in RunDir(run_dir).read_events()]


def commits(run_dir: Path) -> int:
    return len(list((run_dir / "checkpoints").glob("step-*")))


def worker_of(driver: subprocess.Popen[bytes], stage: str) -> int:
    """The Ray worker that waits for a stage: Ray calls it after the stage's task."""
    below = psutil.Process(driver.pid).children(recursive=True)
    (worker,) = [process.pid for process in below if process.cmdline()[:1] == [f"ray::{stage}"]]
    return worker


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("forks", ["1", "0"])
def test_killed_worker_and_killed_driver_lose_and_repeat_nothing(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: str
) -> None:
    monkeypatch.setenv("SWAMP_FORK_STAGES", forks)
    job, file, runs = write_job(tmp_path, tiny_shards), tmp_path / "graph.yaml", tmp_path / "runs"
    long = LONG.strip("[]")
    file.write_text(GRAPH.format(job=job, long=LONG).replace("*long", long))
    console, cluster = tmp_path / "console", tmp_path / "cluster.yaml"
    cluster.write_text("backend: local\nranks: 1\n")
    asked = ("pipeline", file, "--cluster", cluster, "--run-dir", runs)
    first = start(*asked, console=console)
    until(lambda: commits(runs / "pre") > 0, first, console)
    os.kill(worker_of(first, "pre"), signal.SIGKILL)
    until(lambda: kinds(runs / "pre").count("launched") == 2, first, console)
    until(lambda: commits(runs / "fine") > 0, first, console)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    again = ended(start(*asked, console=console), console, 200)
    assert again.code == 0, again.said

    assert [kinds(runs / stage).count("done") for stage in ("pre", "fine")] == [1, 1]
    pre, fine = (kinds(runs / stage).count("launched") for stage in ("pre", "fine"))
    assert pre == 2
    assert fine in (1, 2)  # 1 where its ranks came to the end before they heard of the driver's
    for stage in ("pre", "fine"):
        taken_up = [e["step"] for e in RunDir(runs / stage).read_events() if e["event"] == "training"]
        assert taken_up[0] == 0
        assert all(int(str(step)) >= 16 for step in taken_up[1:])
        rows = [json.loads(line) for line in (runs / stage / "metrics.jsonl").read_text().splitlines()]
        assert [r["step"] for r in rows if "loss/total" in r] == list(range(1, 161))
        assert (
            read_result(runs / stage).provenance["world_size"] == 1
        )  # the cluster file's, not the pipeline's
    pids = [int(str(e["pid"])) for e in RunDir(runs / "fine").read_events() if e["event"] == "starting"]
    assert not any(map(running, pids))


def test_detaching_needs_a_scheduler(tiny_shards: Path, tmp_path: Path) -> None:
    file = tmp_path / "graph.yaml"
    file.write_text(f"name: one\nstages: {{one: {{job: {write_job(tmp_path, tiny_shards)}}}}}\n")
    here = swamp("pipeline", file, "--run-dir", tmp_path / "runs", "--detach")
    refused(here, "expected a cluster file with `backend: slurm`")
    assert not (tmp_path / "runs").exists()
