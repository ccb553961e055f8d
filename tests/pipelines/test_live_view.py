from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from swamp_dist.config import StageSettings
from swamp_dist.monitor.status import BestMetric, RunStatus, look
from swamp_dist.pipelines.live_view import _Paces, _screen, live_view, pending_status
from swamp_dist.pipelines.plan import PlannedStage
from swamp_dist.runs.folder import RunDir
from tests.runs.written_runs import DEAD, own_mark, owned_by, started, write

RUNNING = RunStatus(
    key="pre", run_dir=Path("runs/pre"), state="running", reason="", restarts=0, step=100, total=400,
    seconds_per_step=0.1, seconds_left=30.0, committed=None, world_size=1, host="", job_id="",
    outcome=BestMetric(), seen=None,
)  # fmt: skip
WAITING = replace(RUNNING, state="waiting", step=None, seconds_left=None)

NOW = time.time()


def stage(folder: Path) -> PlannedStage:
    settings = StageSettings.model_validate(
        {"name": "tiny", "data": {"shards": "x"}, "evaluate": [{"split": "test"}]}
    )
    return PlannedStage("pre", "pre", settings, folder, ())


def lines(console: io.StringIO) -> list[str]:
    return [line[9:] for line in console.getvalue().splitlines()]  # without the time of day


def test_a_log_gets_a_line_per_change() -> None:
    out = io.StringIO()
    restarted = replace(RUNNING, restarts=1, seconds_left=None)
    with live_view(Console(file=out), line_seconds=1000) as report:
        for run in (WAITING, WAITING, RUNNING, RUNNING, restarted, replace(restarted, state="done")):
            report([run])
    assert lines(out) == [
        "pre: running step 100/400, 30 s left",
        "pre: running step 100/400, attempt 2",
        "pre: done",
    ]
    assert "\x1b" not in out.getvalue()


def test_a_stage_that_can_never_start_says_why(tmp_path: Path) -> None:
    never = "job 7 can never start: PartitionTimeLimit; lower time_limit"
    told = ("submitted", NOW, {"job": "7"}), ("waits", NOW, {"job": "7", "reason": never})
    run = pending_status(stage(write(tmp_path, *told).path), NOW - 1)
    out = io.StringIO()
    with live_view(Console(file=out)) as report:
        report([run])
    assert lines(out) == [f"pre: stuck {never}"]


def test_a_running_stage_is_repeated_in_a_log() -> None:
    out = io.StringIO()
    with live_view(Console(file=out), line_seconds=0) as report:
        report([RUNNING])
        report([replace(RUNNING, step=150)])
    assert lines(out)[1].startswith("pre: running step 150/400")


def test_a_terminal_gets_one_live_table() -> None:
    out = io.StringIO()
    with live_view(Console(file=out, force_terminal=True, width=120)) as report:
        report([RUNNING, replace(WAITING, key="post")])
    assert "100/400" in out.getvalue()
    assert "post" in out.getvalue()


def test_a_stage_is_shown_as_swamp_status_shows_it(tmp_path: Path) -> None:
    began = time.time()
    run_dir = write(
        tmp_path,
        ("launched", began, {}),
        started(at=began),
        ("training", began, {"step": 0, "total_steps": 40}),
    )
    owned_by(run_dir, own_mark())
    run_dir.metrics_jsonl.write_text('{"step": 10, "loss/total": 2.0}\n{"step": 20, "loss/total": 1.0}\n{"st')
    shown = pending_status(stage(tmp_path), began)
    assert shown == replace(look(run_dir, key="pre"), seconds_left=shown.seconds_left)
    assert (shown.state, shown.step, shown.total, shown.restarts) == ("running", 20, 40, 0)


def test_a_damaged_last_row_is_left_out(tmp_path: Path) -> None:
    began = time.time()
    run_dir = write(tmp_path, ("launched", began, {}), started(at=began))
    owned_by(run_dir, own_mark())
    run_dir.metrics_jsonl.write_text('{"step": 10, "loss/total": 2.0}\n{"step": 20, "loss/to\n')
    assert pending_status(stage(tmp_path), began).step == 10


def test_a_stage_waits_until_this_pipeline_starts_it(tmp_path: Path) -> None:
    began = time.time()
    run_dir = RunDir(tmp_path)
    assert pending_status(stage(tmp_path), began).state == "waiting"
    write(tmp_path, ("launched", began - 100, {}), started(DEAD, began - 99), ("failed", began - 98, {}))
    assert look(run_dir).state == "failed"
    assert pending_status(stage(tmp_path), began).state == "waiting"  # that was an earlier pipeline's attempt
    run_dir.append_event("launched")
    assert pending_status(stage(tmp_path), began).state == "starting"
    write(tmp_path, started(DEAD, began + 1), ("failed", began + 2, {"reason": "rank 0: killed"}))
    assert look(run_dir).state == "failed"
    assert (
        pending_status(stage(tmp_path), began).state == "starting"
    )  # its task has not ended: it tries again
    run_dir.append_event("submitted", job="7")
    assert pending_status(stage(tmp_path), began).state == "queued"


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_a_terminal_is_never_too_small(columns: int) -> None:
    done = replace(RUNNING, state="done", seconds_left=None)
    runs = [
        replace(
            done if n < 40 else RUNNING if n < 42 else WAITING,
            key=f"seed-{n}/finetune-contrastive-pretrained",
        )
        for n in range(63)
    ]
    out = io.StringIO()
    console = Console(file=out, width=columns, height=24)
    console.print(_screen(runs, console, _Paces(1)))
    lines = out.getvalue().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= columns
    assert lines[0] == "40 of 63 done, 2 running"
    assert [line.split()[:2] for line in lines[2:4]] == [
        [f"seed-{n}/finetune-contrastive-pretrained", "running"] for n in (40, 41)
    ]
    assert lines[-1].startswith("not shown: ")
    assert lines[-1].endswith("40 done")


def test_a_log_says_how_many_are_done() -> None:
    out = io.StringIO()
    with live_view(Console(file=out, width=200), line_seconds=1000) as report:
        report([RUNNING, replace(WAITING, key="post")])
        report([replace(RUNNING, state="done", seconds_left=None), replace(WAITING, key="post")])
    assert lines(out)[-1].startswith("1 of 2 done, about ")
