"""On a real SLURM: a graph of stages, driven from outside or handed over, each stage run exactly once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from swamp_dist.runs.folder import RunDir
from tests.cluster.slurm import PATIENCE, Job, slurm
from tests.end_to_end.command import ROOT, ended, flip, start, swamp, until, write_job

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
CLUSTER = ROOT / "jobs/clusters/slurm_cpu_test.yaml"
GRAPH = """\
name: tiny
shards: {shards}
stages:
  pre: {{job: {job}, overrides: [train.epochs={epochs}, data.shards={pre}]}}
  fine-a: {{job: {job}, after: [pre], overrides: ["train.init_from={{runs.pre}}"]}}
  fine-b: {{job: {job}, after: [pre], overrides: [seed=1, "train.init_from={{runs.pre}}"]}}
  eval-a: {{job: {job}, after: [fine-a], overrides: ["weights={{runs.fine-a}}", train=null]}}
  eval-b: {{job: {job}, after: [fine-b], overrides: ["weights={{runs.fine-b}}", train=null]}}
  other: {{job: {job}, overrides: [seed=2]}}
"""
STAGES = ("pre", "fine-a", "fine-b", "eval-a", "eval-b", "other")
RECIPE = """\
name: tiny
source: {kind: synthetic, splits: {train: {classes: [0, 4], total: 200},
  validation: {classes: [0, 4], total: 40}, test: {classes: [0, 4], total: 40}}}
entries_per_shard: 50
"""


def graph(folder: Path, shards: Path, epochs: int = 2, pre: Path | None = None, recipe: str = "") -> Path:
    """The pipeline file: pre -> two finetunings -> their evaluations, and another training beside them."""
    built = f"[{{recipe: {recipe}, out: {shards}}}]" if recipe else "[]"
    path = folder / "pipeline.yaml"
    job = write_job(folder, shards)
    path.write_text(GRAPH.format(shards=built, job=job, epochs=epochs, pre=pre or shards))
    return path


def events(run_dir: Path, kind: str) -> list[dict[str, object]]:
    return [e for e in RunDir(run_dir).read_events() if e["event"] == kind]


def counts(folder: Path, kind: str) -> dict[str, int]:
    return {stage: len(events(folder / stage, kind)) for stage in STAGES}


def wait(happened: Callable[[], bool], folder: Path, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            said = [(stage, RunDir(folder / stage).read_events()[-3:]) for stage in STAGES]
            pytest.fail(f"no {what}:\n{slurm('squeue')}\n{said}")
        time.sleep(0.1)


def job_of(run_dir: Path) -> Job:
    return Job(str(events(run_dir, "submitted")[-1]["job"]), run_dir)


def test_killed_driver_takes_the_graph_up_again_and_nothing_runs_twice(
    tiny_shards: Path, tmp_path: Path
) -> None:
    file, folder, console = graph(tmp_path, tiny_shards), tmp_path / "runs", tmp_path / "console"
    asked = ("pipeline", file, "--cluster", CLUSTER, "--run-dir", folder)
    first = start(*asked, console=console)
    until(lambda: bool(events(folder / "pre", "launched")), first, console)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    again = ended(start(*asked, console=console), console, PATIENCE)
    assert again.code == 0, again.said
    assert counts(folder, "submitted") == counts(folder, "launched") == dict.fromkeys(STAGES, 1), again.said
    assert counts(folder, "done") == dict.fromkeys(STAGES, 1)
    done, began = events(folder / "pre", "done")[0]["time"], events(folder / "fine-a", "submitted")[0]["time"]
    assert float(str(done)) < float(str(began))
    third = swamp(*asked)
    assert third.code == 0
    assert counts(folder, "submitted") == dict.fromkeys(STAGES, 1)


def test_detached_graph_waits_for_a_requeued_job_and_needs_no_driver(tmp_path: Path) -> None:
    shards, folder = tmp_path / "built", tmp_path / "runs"
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    file = graph(tmp_path, shards, epochs=25, recipe=str(tmp_path / "recipe.yaml"))
    asked = ("pipeline", file, "--cluster", CLUSTER, "--run-dir", folder, "--detach")
    handed = swamp(*asked)
    assert handed.code == 0, handed.said
    again = swamp(*asked)
    assert again.code == 0, again.said
    assert "submitted" not in again.said
    assert counts(folder, "submitted") == dict.fromkeys(STAGES, 1)
    jobs = {node["key"]: node["job"] for node in json.loads((folder / "graph.json").read_text())["stages"]}
    assert jobs == {stage: job_of(folder / stage).number for stage in STAGES}

    pre, fine = job_of(folder / "pre"), job_of(folder / "fine-a")
    pre.until(lambda: pre.step() > 0, "first commit")
    slurm("scancel", "--signal=USR2", pre.number)
    pre.until(lambda: pre.restarts() == 1, "requeue")
    assert fine.state() == "PENDING"
    status = swamp("status", folder)
    assert "Dependency" in status.said, status.said
    wait(lambda: all(RunDir(folder / stage).done for stage in STAGES), folder, "end of all stages")
    assert counts(folder, "submitted") == dict.fromkeys(STAGES, 1)
    assert counts(folder, "launched") == dict.fromkeys(STAGES, 1) | {"pre": 2}
    done, began = events(folder / "pre", "done")[0]["time"], events(folder / "fine-a", "launched")[0]["time"]
    assert float(str(done)) < float(str(began))
    assert "done" in swamp(*asked).said
    assert counts(folder, "submitted") == dict.fromkeys(STAGES, 1)


def test_failed_stage_takes_only_its_dependents_with_it(tiny_shards: Path, tmp_path: Path) -> None:
    """Its shards are damaged inside, which only reading them can tell."""
    damaged, folder = tmp_path / "damaged", tmp_path / "runs"
    shutil.copytree(tiny_shards, damaged)
    shard = min(damaged.glob("train*.tar"))
    flip(shard, shard.stat().st_size // 2)
    file = graph(tmp_path, tiny_shards, pre=damaged)
    asked = ("pipeline", file, "--cluster", CLUSTER, "--run-dir", folder)
    handed = swamp(*asked, "--detach", "overrides=[data.verify=true]")
    assert handed.code == 0, handed.said
    wait(lambda: RunDir(folder / "other").done, folder, "end of the other stage")
    states = {stage: job_of(folder / stage).over() for stage in STAGES}
    assert states == dict.fromkeys(STAGES, "CANCELLED") | {"pre": "FAILED", "other": "COMPLETED"}
    assert counts(folder, "launched") == dict.fromkeys(STAGES, 0) | {"pre": 1, "other": 1}
    assert job_of(folder / "pre").exit_code() == 2


def test_array_of_parts_builds_the_set_that_one_process_builds(tmp_path: Path) -> None:
    recipe, out, here = tmp_path / "recipe.yaml", tmp_path / "array", tmp_path / "here"
    recipe.write_text(RECIPE)
    asked = ("shards", "build", recipe, "--out", out, "--cluster", CLUSTER, "--parts", 3)
    handed = swamp(*asked)
    assert handed.code == 0, handed.said
    assert "nothing was submitted" in swamp(*asked).said
    closing = Job(handed.said.split("close:   job ")[1].split()[0], tmp_path)
    assert closing.over() == "COMPLETED"
    assert swamp("shards", "build", recipe, "--out", here).code == 0
    assert (out / "manifest.json").read_bytes() == (here / "manifest.json").read_bytes()
    logs = (tmp_path / "array.jobs/logs/slurm").glob("*_[0-2]_0_log.out")
    said = {int(path.name.split("_")[1]): path.read_text() for path in logs}  # parts start in any order
    assert sorted(said) == [0, 1, 2]
    assert all(f"part {part}/3: 2 of 6 shards are finished" in text for part, text in said.items())
    assert "is built already" in swamp(*asked).said
