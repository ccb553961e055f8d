"""Every state, from run folders written by hand."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, get_args

import pytest
from rich.console import Console

from swamp_dist.errors import UserError
from swamp_dist.monitor import status as status_module
from swamp_dist.monitor.state import State
from swamp_dist.monitor.status import BestMetric, SchedulerAnswer, look
from swamp_dist.monitor.survey import run_entries, survey
from swamp_dist.monitor.table import runs_table
from swamp_dist.records import JobState
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.graph import read_graph
from swamp_dist.runs.processes import ProcessMark, own_mark
from tests.pipelines.small_pipelines import RESULT
from tests.runs.written_runs import DEAD, ELSEWHERE, METRIC, fake_command, owned_by, rows, started, write

NOW = time.time()
TRAINING = ("training", NOW - 100, {"step": 0, "total_steps": 100, "log_every": 10, **METRIC})
SUBMITTED = ("submitted", NOW - 200, {"backend": "slurm", "job": "7"})
PREEMPTED = ("preempted", NOW - 40, {"step": 30})
REQUEUED = ("requeued", NOW - 39, {"job": "7", "step": 30, "reason": "node n1 failed"})
FAILED = ("failed", NOW - 40, {"reason": "rank 1 was killed by SIGKILL\nLast lines:\n  | x"})
UNNAMED = ProcessMark(own_mark().host, 1, "")
LAUNCHED = ("launched", NOW, {"job": "7"})
GIVEN_UP = ("failed", NOW, {"job": "7", "reason": "started 4 times from step 30"})
WAITS = ("waits", NOW, {"job": "7", "reason": "does not take it yet: Unable to contact slurm controller"})


def job(state: str, reason: str = "", seconds: float = 5.0) -> SchedulerAnswer:
    phases: dict[str, Literal["waiting", "running"]] = {"PENDING": "waiting", "RUNNING": "running"}
    return SchedulerAnswer(JobState("7", phases.get(state, "ended"), reason, seconds, word=state))


CASES = [
    ("nothing yet", [], None, None, "waiting", ""),
    ("launched by a pipeline", [("launched", NOW - 2, {})], None, None, "starting", ""),
    ("launched and never heard of", [("launched", NOW - 300, {})], None, None, "failed",
     "before its ranks were ready"),
    ("ranks not ready", [("starting", NOW - 2, own_mark().as_dict())], None, None, "starting",
     "getting ready"),
    ("ranks never ready", [("starting", NOW - 2, DEAD.as_dict())], None, None, "failed",
     "before its ranks were ready"),
    ("training", [started(at=NOW - 110), TRAINING], own_mark(), None, "running", ""),
    ("killed", [started(DEAD, NOW - 110), TRAINING], DEAD, None, "failed",
     "stopped without a word at step 60"),
    ("owner file gone, no word", [started(DEAD, NOW - 110), TRAINING], None, None, "failed",
     "without a word at step 60"),
    ("preempted", [started(DEAD), TRAINING, PREEMPTED], None, None, "preempted", "saved at step 30"),
    ("cancelled", [started(DEAD), TRAINING, ("cancelled", NOW, {}), PREEMPTED], None, None, "cancelled",
     "saved at step 30"),
    ("killed by cancel", [started(DEAD), TRAINING, ("cancelled", NOW, {}), FAILED], None, None, "cancelled",
     "cancelled"),
    ("cancelled, saving", [started(), TRAINING, ("cancelled", NOW, {})], own_mark(), None, "running",
     "asked to stop"),
    ("started again after cancel", [started(DEAD), ("cancelled", NOW, {}), PREEMPTED, started(at=NOW)],
     own_mark(), None, "running", ""),
    ("failed", [started(DEAD), TRAINING, FAILED], None, None, "failed", "rank 1 was killed by SIGKILL"),
    ("result removed", [started(DEAD), ("done", NOW, {})], None, None, "waiting", "result.json is gone"),
    ("other host, fresh", [started(ELSEWHERE), TRAINING], ELSEWHERE, None, "running", ""),
    ("cannot be told", [started(UNNAMED), TRAINING], UNNAMED, None, "running", ""),
    ("queued", [SUBMITTED], None, job("PENDING", "Resources", 0), "queued", "job 7 waits: Resources"),
    ("requeued", [SUBMITTED, started(ELSEWHERE), TRAINING, PREEMPTED], None, job("PENDING", "BeginTime"),
     "requeued", "BeginTime"),
    ("job runs", [SUBMITTED, started(ELSEWHERE), TRAINING], ELSEWHERE, job("RUNNING"), "running", ""),
    ("job starts", [SUBMITTED], None, job("RUNNING"), "starting", "getting ready"),
    ("job timed out", [SUBMITTED, started(ELSEWHERE), TRAINING], ELSEWHERE, job("TIMEOUT"), "failed",
     "(job 7: TIMEOUT)"),
    ("job never began", [SUBMITTED], None, job("FAILED"), "failed", "ended before its ranks began: FAILED"),
    ("job forgotten", [SUBMITTED], None, SchedulerAnswer(), "failed", "left the scheduler"),
    ("no scheduler", [SUBMITTED], None, SchedulerAnswer(error="no squeue"), "queued", "no squeue"),
    ("requeued and lost", [SUBMITTED, started(ELSEWHERE), TRAINING, PREEMPTED, REQUEUED], None,
     SchedulerAnswer(), "preempted", "node n1 failed; job 7 left the queue"),
    ("requeued, no answer", [SUBMITTED, started(ELSEWHERE), TRAINING, PREEMPTED, REQUEUED], None,
     SchedulerAnswer(error="no answer"), "requeued", "job 7 asked to be started again; no answer"),
    ("lost a rank", [SUBMITTED, started(ELSEWHERE), TRAINING, FAILED], ELSEWHERE, job("RUNNING"), "requeued",
     "lost a rank; waits for the scheduler (rank 1 was killed by SIGKILL"),
    ("lost rank 0", [SUBMITTED, started(DEAD), TRAINING], DEAD, job("RUNNING"), "requeued",
     "lost a rank; waits for"),
    ("saved, not queued yet", [SUBMITTED, started(ELSEWHERE), TRAINING, PREEMPTED], None, job("RUNNING"),
     "requeued", "waits for the scheduler"),
    ("starts again after a loss", [SUBMITTED, started(DEAD), TRAINING, FAILED, LAUNCHED], None,
     job("RUNNING"), "starting", "getting ready"),
    ("given up while it ends", [SUBMITTED, started(ELSEWHERE), TRAINING, GIVEN_UP], None, job("RUNNING"),
     "failed", "started 4 times"),
    ("requeue not taken yet", [SUBMITTED, started(ELSEWHERE), TRAINING, PREEMPTED, REQUEUED, WAITS], None,
     job("RUNNING"), "requeued", "does not take it yet: Unable to contact"),
    ("told that it never starts", [SUBMITTED, WAITS], None, SchedulerAnswer(error="followed"), "stuck",
     "does not"),
    ("never starts", [SUBMITTED], None,
     SchedulerAnswer(JobState("7", "waiting", "PartitionTimeLimit", stuck=True, fix="lower it")),
     "stuck", "job 7 can never start: PartitionTimeLimit; lower it"),
    ("submission refused", [("failed", NOW, {"reason": "sbatch refused the job: no"})], None, None, "failed",
     "sbatch refused the job"),
    ("inside an allocation", [started(DEAD, job="7"), TRAINING], DEAD, None, "failed", "without a word"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def at_the_time_of_the_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """The events above were dated when this file was loaded, which may be minutes ago."""
    monkeypatch.setattr(status_module, "time", SimpleNamespace(time=lambda: NOW))


@pytest.mark.parametrize(
    ("events", "owner", "asked", "state", "reason"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_state(
    tmp_path: Path,
    events: list[tuple[str, float, dict[str, object]]],
    owner: ProcessMark | None,
    asked: SchedulerAnswer | None,
    state: str,
    reason: str,
) -> None:
    run_dir = write(tmp_path, *events)
    if owner is not None:
        owned_by(run_dir, owner)
    if TRAINING in events:
        rows(run_dir, NOW - 10, {"step": 50}, {"step": 60})
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    status = look(run_dir, asked=asked)
    assert (status.state, reason in status.reason) == (state, True), status
    assert bool(status.reason) == bool(reason)
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before  # only looked at


@pytest.mark.parametrize("state", get_args(State))
def test_every_state_has_a_row(tmp_path: Path, state: State) -> None:
    run = replace(look(write(tmp_path)), state=state)
    written = io.StringIO()
    Console(file=written, width=200).print(runs_table([run]))
    assert state in written.getvalue()


def test_stalled_is_judged_by_its_own_pace(tmp_path: Path) -> None:
    quiet = write(tmp_path / "quiet", started(at=NOW - 5000), ("training", NOW - 4000, TRAINING[2]))
    owned_by(quiet, own_mark())
    rows(quiet, NOW - 3000, {"step": 100})  # 10 s a step, a row every 10 steps: 1,000 s of silence are usual
    assert look(quiet).state == "stalled"
    assert look(quiet).reason.startswith("no sign for 30")
    slow = write(tmp_path / "slow", started(at=NOW - 9000), ("training", NOW - 8000, TRAINING[2]))
    owned_by(slow, own_mark())
    rows(slow, NOW - 3000, {"step": 50})  # 100 s a step
    assert look(slow).state == "running"
    assert look(slow, stalled_after=20000).state == "running"
    away = write(tmp_path / "away", started(ELSEWHERE, at=NOW - 5000))
    assert look(away).state == "stalled"
    assert "another-host: look there" in look(away).reason
    again = write(tmp_path / "again", SUBMITTED, started(ELSEWHERE, at=NOW - 5000))
    assert look(again, asked=job("RUNNING", seconds=20)).state == "running"  # the job started anew
    assert look(again, asked=job("RUNNING", seconds=4000)).state == "stalled"


def test_figures_of_a_restarted_run(tmp_path: Path) -> None:
    run_dir = write(
        tmp_path,
        started(DEAD, NOW - 9000),
        ("training", NOW - 9000, TRAINING[2]),
        ("committed", NOW - 8000, {"step": 40, "seconds": 1.0, "best_step": 20, "best_value": 31.0}),
        started(at=NOW - 60),
        ("training", NOW - 50, {**TRAINING[2], "step": 40}),
    )
    owned_by(run_dir, own_mark())
    key = "retrieval/validation/pair/{}/r_at_1"
    rows(
        run_dir,
        NOW - 10,
        {"step": 50, key.format("a_to_b"): 20.0, key.format("b_to_a"): 40.0},
        {"step": 60, "loss/total": 1.0, "perf/step_seconds": 7.0},
    )
    status = look(run_dir)
    assert (status.state, status.restarts, status.step, status.total) == ("running", 1, 60, 100)
    assert status.seconds_per_step == pytest.approx(2.0, abs=0.01)  # 20 steps in 40 s of this start
    assert status.seconds_left == pytest.approx(80.0, abs=1)
    assert status.outcome == BestMetric("validation pair/mean/r_at_1", 30.0, 31.0, 20)
    rows(run_dir, NOW, {"step": 70, key.format("a_to_b"): 50.0, key.format("b_to_a"): 40.0})
    assert look(run_dir).outcome == BestMetric("validation pair/mean/r_at_1", 45.0, 45.0, 70)


def test_a_damaged_result_is_said_and_not_raised(tmp_path: Path) -> None:
    run_dir = write(tmp_path)
    run_dir.result_json.write_text(json.dumps(RESULT | {"name": "x", "steps": 5}))
    assert look(run_dir).state == "done"
    run_dir.result_json.write_text("{")
    status = look(run_dir)
    assert status.state == "failed"
    assert "result.json" in status.reason


def test_garbage_everywhere_is_survived(tmp_path: Path) -> None:
    run_dir = write(tmp_path)
    for path in (run_dir.events_jsonl, run_dir.metrics_jsonl, run_dir.owner_json):
        path.write_bytes(
            b'\xff\x00{"event": "started"\n[]\n{"event": "started", "ranks": 3, "logs": []}\n{"st'
        )
    assert look(run_dir).state == "failed"


def graph(folder: Path, **after: list[str]) -> None:
    folder.mkdir()
    stages = [{"key": key, "after": before} for key, before in after.items()]
    (folder / "graph.json").write_text(json.dumps({"stages": stages}))


def test_a_pipeline_blocks_what_waits_for_a_failed_stage(tmp_path: Path) -> None:
    graph(tmp_path / "p", pre=[], other=[], fine=["pre"], ev=["fine"])
    write(tmp_path / "p" / "pre", started(DEAD), FAILED)
    for name in ("fine", "ev", "other"):
        write(tmp_path / "p" / name)
    owned_by(RunDir(tmp_path / "p"), own_mark())
    (group,), error = survey([tmp_path / "p"])
    assert error == ""
    assert (group.pipeline, group.driver) == (True, "alive")
    states = {run.key: run.state for run in group.runs}
    assert states == {"pre": "failed", "other": "waiting", "fine": "blocked", "ev": "blocked"}
    assert {r.key: r.reason for r in group.runs}["ev"] == "waits for fine, which is blocked"


def test_a_job_that_was_cancelled_because_one_before_it_failed_is_blocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    fake_command(tmp_path / "nowhere", "squeue", "exit 0")
    fake_command(tmp_path / "nowhere", "scontrol", "echo 'Invalid job id specified' >&2; exit 1")
    graph(tmp_path / "p", pre=[], fine=["pre"])
    write(tmp_path / "p" / "pre", started(DEAD), FAILED)
    write(tmp_path / "p" / "fine", ("submitted", 1.0, {"job": "8", "after": ["7"]}))
    (group,), _ = survey([tmp_path / "p"])
    assert [(r.state, r.reason) for r in group.runs][1] == ("blocked", "waits for pre, which is failed")


def test_a_tree_is_searched_and_what_is_no_run_is_refused(tmp_path: Path) -> None:
    graph(tmp_path / "p", one=[])
    write(tmp_path / "lone")
    write(tmp_path / "deep" / "er" / "run")
    (tmp_path / "empty").mkdir()
    found = run_entries(tmp_path)
    assert [(path, pipeline, [p.key for p in inside]) for path, pipeline, inside in found] == [
        (tmp_path / "p", True, ["one"]),
        (tmp_path, False, ["deep/er/run", "lone"]),
    ]
    for wrong, said in ((tmp_path / "empty", "no run in"), (tmp_path / "none", "does not exist")):
        with pytest.raises(UserError, match=said):
            run_entries(wrong)
    assert read_graph(tmp_path) is None


def test_the_scheduler_is_asked_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = tmp_path / "bin"
    fake_command(commands, "squeue", "echo '7|PENDING|0:00|Priority'; echo '8|RUNNING|5:00|None'")
    monkeypatch.setenv("PATH", str(commands))
    write(tmp_path / "runs" / "a", SUBMITTED)
    write(tmp_path / "runs" / "b", ("submitted", NOW, {"job": 8}), started(ELSEWHERE, NOW))
    write(tmp_path / "runs" / "c")
    (group,), error = survey([tmp_path / "runs"])
    assert error == ""
    assert [run.state for run in group.runs] == ["queued", "running", "waiting"]
    assert len((commands / "squeue.calls").read_text().splitlines()) == 1
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    (group,), error = survey([tmp_path / "runs"])
    assert "neither squeue nor scontrol" in error
    assert [run.state for run in group.runs] == ["queued", "running", "waiting"]


def test_a_copy_of_a_finished_run_shows_the_same_speed(tmp_path: Path) -> None:
    committed = ("committed", NOW - 40, {"step": 100, "seconds": 0.1})
    run_dir = write(tmp_path / "run", started(at=NOW - 110), TRAINING, committed, ("done", NOW - 30, {}))
    rows(run_dir, NOW + 5000, {"step": 100})  # as `cp -r` leaves it
    run_dir.result_json.write_text(json.dumps(RESULT))
    assert look(run_dir).seconds_per_step == pytest.approx(0.6)  # 60 s from `training` to the last commit
