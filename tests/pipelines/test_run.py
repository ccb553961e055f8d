from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swamp_dist.config import PipelineSettings, ShardSettings
from swamp_dist.launch.console import StageStatus, look
from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.pipeline import run_pipeline
from swamp_dist.launch.ray_graph import own_ray
from swamp_dist.launch.rundir import RunDir, RunDirHeld
from swamp_dist.records import UserError
from tests.launch import pipelines

ray_cloudpickle = pytest.importorskip("ray.cloudpickle")


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One Ray for all tests here: starting one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with own_ray(2):
            ray_cloudpickle.register_pickle_by_value(pipelines)
            yield


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder and run folder of a played pipeline."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "orders").touch()
    return tmp_path / "runs"


def build(settings: ShardSettings, out: Path) -> None:
    if out.exists():
        return
    out.mkdir(parents=True)
    (out / "manifest.json").write_text(settings.name)
    with Path("built").open("a") as file:
        file.write(f"{out} {settings.source.seed}\n")


def play(settings: PipelineSettings, runs: Path) -> tuple[dict[str, StageStatus], list[str]]:
    """Final statuses by key, and the keys in the order they were started (over all calls)."""
    reports: list[list[StageStatus]] = []
    statuses = run_pipeline(
        settings, runs, lambda s: reports.append(list(s)), runner=_Played(str(runs)), build=build
    )
    assert reports[-1] == statuses
    started = (runs / "started").read_text().split("\n")[:-1] if (runs / "started").exists() else []
    return {s.key: s for s in statuses}, started


class _Played:
    """`pipelines.mark`, told where the runs are (workers do not share this process's environment)."""

    def __init__(self, runs: str) -> None:
        self.runs, self.mark = runs, pipelines.mark

    def __call__(self, stage_yaml: Path, run_dir: Path, ranks: int) -> int:
        import os

        os.environ["PLAYED_RUNS"] = self.runs
        return self.mark(stage_yaml, run_dir, ranks)


ray_cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])


@pytest.mark.usefixtures("ray")
def test_a_graph_runs_in_order_and_is_not_redone(tmp_path: Path, runs: Path) -> None:
    settings = pipelines.pipeline_files(tmp_path)
    statuses, started = play(settings, runs)
    assert {s.state for s in statuses.values()} == {"done"}
    keys = [line.split()[0] for line in started]
    assert sorted(keys) == sorted(statuses)
    for seed in ("seed-0", "seed-1"):
        assert keys.index(f"{seed}/pre") < keys.index(f"{seed}/post")
    assert all(line.split()[1:] == ["1", "1", "True"] for line in started)
    assert sorted(Path("built").read_text().split("\n")[:-1]) == ["data/demo-0 0", "data/demo-1 1"]

    RunDir(runs / "seed-1" / "post").result_json.unlink()
    _, again = play(settings, runs)
    assert [line.split()[0] for line in again[len(started) :]] == ["seed-1/post"]
    assert len(Path("built").read_text().split("\n")[:-1]) == 2


@pytest.mark.usefixtures("ray")
def test_failures_are_retried_and_block_only_what_comes_after(tmp_path: Path, runs: Path) -> None:
    settings = pipelines.pipeline_files(tmp_path, retries=1)
    # once crashed, once killed with its worker: both retried; always crashing and refusing: not done
    (runs / "orders").write_text("seed-0/pre 1 1\nseed-0/other kill 1\nseed-1/pre 1 9\nseed-1/other 2 9\n")
    statuses, started = play(settings, runs)
    states = {key: status.state for key, status in statuses.items()}
    assert states == {
        "seed-0/pre": "done", "seed-0/post": "done", "seed-0/other": "done",
        "seed-1/pre": "failed", "seed-1/post": "blocked", "seed-1/other": "failed",
    }  # fmt: skip
    counts = {key: sum(line.startswith(key + " ") for line in started) for key in statuses}
    assert counts == {
        "seed-0/pre": 2, "seed-0/post": 1, "seed-0/other": 2,
        "seed-1/pre": 2, "seed-1/post": 0, "seed-1/other": 1,
    }  # fmt: skip
    assert "exit code 1" in statuses["seed-1/pre"].message
    assert str(RunDir(runs / "seed-1/pre").console_log) in statuses["seed-1/pre"].message
    assert "seed-1/pre is not done" in statuses["seed-1/post"].message
    assert "refused" in statuses["seed-1/other"].message


def test_nothing_starts_when_one_job_is_wrong(tmp_path: Path, runs: Path) -> None:
    tree = pipelines.pipeline_files(tmp_path).model_dump()
    tree["stages"]["other"]["overrides"] = ["train.epochz=3"]
    with pytest.raises(UserError, match=r"train\.epochs"):
        play(PipelineSettings.model_validate(tree), runs)
    assert not Path("built").exists()
    assert not (runs / "started").exists()


def test_the_same_pipeline_runs_once_at_a_time(tmp_path: Path, runs: Path) -> None:
    with RunDir(runs).hold(), pytest.raises(RunDirHeld):
        play(pipelines.pipeline_files(tmp_path), runs)


def test_a_running_stage_is_seen_in_its_folder(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.create()
    waiting = StageStatus("pre", tmp_path, "waiting")
    began = time.time()
    assert look(waiting, began) == waiting
    folder.append_event("launched")
    assert look(waiting, began + 60) == waiting  # a launch of an earlier pipeline
    assert look(waiting, began).state == "running"
    folder.append_event("training", total_steps=40)
    folder.metrics_jsonl.write_text('{"step": 10, "loss/total": 2.0}\n{"step": 20, "loss/total": 1.0}\n{"st')
    seen = look(waiting, began)
    assert (seen.step, seen.total, seen.attempts) == (20, 40, 1)


def test_exit_codes_are_the_documented_ones() -> None:
    assert [int(c) for c in ExitCode] == [0, 1, 2, 3, 75, 130]
