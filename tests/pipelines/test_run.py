from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swamp_dist.backends.ray.session import graph_session
from swamp_dist.config import PipelineSettings, ShardSettings
from swamp_dist.errors import ExitCode, RunDirHeld, UserError
from swamp_dist.monitor.status import RunStatus
from swamp_dist.pipelines import run
from swamp_dist.pipelines.run import StageEnd, _reason, run_pipeline
from swamp_dist.runs.folder import RunDir
from tests.pipelines import small_pipelines as pipelines
from tests.runs.written_runs import nobody_tells, write

ray_cloudpickle = pytest.importorskip("ray.cloudpickle")


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One Ray for all tests here: starting one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with graph_session(2):
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


def play(settings: PipelineSettings, runs: Path) -> tuple[dict[str, StageEnd], list[str]]:
    """Ends by key, and the keys in the order they were started (over all calls)."""
    reports: list[list[RunStatus]] = []
    ends = run_pipeline(
        settings, runs, lambda s: reports.append(list(s)), runner=_Played(str(runs)), build=build
    )
    assert [(shown.key, shown.state) for shown in reports[-1]] == [(end.key, end.state) for end in ends]
    started = (runs / "started").read_text().split("\n")[:-1] if (runs / "started").exists() else []
    return {end.key: end for end in ends}, started


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
def test_a_stage_that_ends_while_ray_starts_is_done(
    tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job was submitted by a driver before this one."""
    settings = pipelines.pipeline_files(tmp_path)
    _, started = play(settings, runs)
    result = RunDir(runs / "seed-1" / "pre").result_json
    result.rename(tmp_path / "later")

    @contextlib.contextmanager
    def slow_start(slots: int) -> Iterator[Any]:
        with graph_session(slots) as ray:
            (tmp_path / "later").rename(result)
            yield ray

    monkeypatch.setattr(run, "graph_session", slow_start)
    statuses, again = play(settings, runs)
    assert {s.state for s in statuses.values()} == {"done"}
    assert again == started


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
    assert statuses["seed-1/pre"].message == "failed with exit code 1; it left no log"
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
    with RunDir(runs).hold(nobody_tells), pytest.raises(RunDirHeld):
        play(pipelines.pipeline_files(tmp_path), runs)


def test_exit_codes_are_the_documented_ones() -> None:
    assert [int(c) for c in ExitCode] == [0, 1, 2, 3, 75, 130]


@pytest.mark.parametrize("details", [{}, {"job": "7", "code": 2}, {"code": 2}])
def test_a_mistake_is_told_in_its_own_words_and_no_log_is_named_that_is_not_there(
    tmp_path: Path, details: dict[str, object]
) -> None:
    """Of ranks here, of a job, and of a job that was refused."""
    words = "data.lanes = 5\nFix: data.lanes=6"
    submitted = [("submitted", 0.0, {"job": "7"})] if "job" in details else []
    folder = write(tmp_path / "run", *submitted, ("failed", 1.0, {"reason": words, **details}))
    assert _reason(2, folder) == words
    log = folder.job_log("7") if "job" in details else folder.console_log
    log.parent.mkdir(exist_ok=True)
    log.write_text("a line\n")
    said = _reason(2, folder)
    assert said == words if details == {"code": 2} else said == f"{words}\nIts log: {log}"


def test_the_log_of_the_rank_that_made_the_mistake_is_the_one_that_is_named(tmp_path: Path) -> None:
    words = "rank 1: it is damaged\nIts log: logs/rank-001.log"
    folder = write(tmp_path / "run", ("failed", 1.0, {"reason": words}))
    folder.console_log.write_text("a line\n")
    assert _reason(2, folder) == words


def test_a_stage_that_left_nothing_names_no_log(tmp_path: Path) -> None:
    assert _reason(1, write(tmp_path / "run")) == "failed with exit code 1; it left no log"
