from __future__ import annotations

import io

import pytest
from rich.console import Console

from swamp_dist.progress import WorkProgress, duration


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_when_it_is_time_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock, out = Clock(), io.StringIO()
    with WorkProgress("set", "{done} of {total} shards", console=Console(file=out), clock=clock) as progress:
        for clock.now, done in ((0.0, 2), (10.0, 3), (31.0, 4), (40.0, 5), (50.0, 6)):
            progress.show(done, 6)
    assert caplog.messages == [
        "set: 2 of 6 shards",
        "set: 4 of 6 shards, 31 s left",  # 2 shards in 31 s, 2 to go
        "set: 6 of 6 shards",
    ]
    assert out.getvalue() == ""


def test_a_resumed_run_is_measured_from_where_it_began(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock = Clock()
    console = Console(file=io.StringIO())
    progress = WorkProgress("s", "step {done} of {total}", line_seconds=10, console=console, clock=clock)
    with progress:
        progress.show(500, 1000, "loss 2.0000")
        clock.now = 60.0
        progress.show(600, 1000)
    assert caplog.messages[-1] == "s: step 600 of 1000, loss 2.0000, 4 min left"


def test_a_terminal_gets_a_bar_and_no_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with WorkProgress("tiny", "step {done} of {total}", console=console) as progress:
        progress.show(3, 16, "loss 1.5000")
    assert "3/16" in out.getvalue()
    assert "loss 1.5000" in out.getvalue()
    assert not caplog.messages


def test_other_ranks_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    out = io.StringIO()
    console = Console(file=out, force_terminal=True)
    with WorkProgress("tiny", "{done}", shown=False, console=console) as progress:
        progress.show(1, 1)
    assert (out.getvalue(), caplog.messages) == ("", [])


def test_durations_are_short() -> None:
    shown = [duration(seconds) for seconds in (7.4, 89, 90, 3000, 11100)]
    assert shown == ["7 s", "89 s", "2 min", "50 min", "3 h 05 min"]
