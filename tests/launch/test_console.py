from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from swamp_dist.launch.console import Pace, StageStatus, duration, progress

RUNNING = StageStatus("pre", Path("runs/pre"), "running", step=100, total=400, attempts=1)


def test_remaining_time_follows_the_pace_since_first_seen() -> None:
    now = 10.0
    pace = Pace(lambda: now)
    assert pace.remaining(RUNNING) is None
    now = 30.0
    assert pace.remaining(RUNNING) is None  # has not moved
    assert pace.remaining(replace(RUNNING, step=200)) == 40.0  # 100 steps in 20 s, 200 to go
    assert pace.remaining(replace(RUNNING, step=200, attempts=2)) is None  # a new start is measured anew
    assert pace.remaining(replace(RUNNING, total=None)) is None


def test_durations_are_short() -> None:
    assert [duration(s) for s in (7.4, 89, 90, 3000, 11100)] == [
        "7 s",
        "89 s",
        "2 min",
        "50 min",
        "3 h 05 min",
    ]


def lines(console: io.StringIO) -> list[str]:
    return [line[9:] for line in console.getvalue().splitlines()]  # without the time of day


def test_a_log_gets_a_line_a_change() -> None:
    out = io.StringIO()
    waiting = replace(RUNNING, state="waiting", step=None)
    with progress(Console(file=out), line_seconds=1000) as report:
        for status in (
            waiting,
            waiting,
            RUNNING,
            RUNNING,
            replace(RUNNING, attempts=2),
            replace(RUNNING, state="done"),
        ):
            report([status])
    assert lines(out) == [
        "pre: running step 100/400",
        "pre: running step 100/400, attempt 2",
        "pre: done",
    ]
    assert "\x1b" not in out.getvalue()


def test_a_running_stage_is_repeated_in_a_log() -> None:
    out = io.StringIO()
    with progress(Console(file=out), line_seconds=0) as report:
        report([RUNNING])
        report([replace(RUNNING, step=150)])
    assert lines(out)[1].startswith("pre: running step 150/400")


def test_a_terminal_gets_one_live_table() -> None:
    out = io.StringIO()
    with progress(Console(file=out, force_terminal=True, width=80)) as report:
        report([RUNNING, replace(RUNNING, key="post", state="waiting", step=None)])
    assert "step 100/400" in out.getvalue()
    assert "post" in out.getvalue()
