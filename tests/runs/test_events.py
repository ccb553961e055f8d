from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from swamp_dist.runs.events import (
    Attempt,
    attempts,
    last_rows,
    number,
    read_events,
    seconds_per_step,
    standing_alarms,
    stopped_by_alarm,
)
from swamp_dist.runs.folder import RunDir


def event(name: str, time: float = 0.0, **details: object) -> dict[str, object]:
    return {"event": name, "time": time, **details}


def test_damaged_lines_are_left_out_and_whole_ones_kept(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(
        b'{"event": "started"}\n\x00\x00\xff{"event\n[1]\n{"no": "event"}\n\n{"event": 3}\n'
        b'{"event": "done"}\n{"event": "hal'
    )
    assert [e["event"] for e in read_events(path)] == ["started", "done"]
    assert read_events(tmp_path / "none") == []


def test_an_event_after_a_torn_one_stands_on_its_own_line(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.events_jsonl.write_text('{"event": "started"}\n{"event": "comm')
    run_dir.append_event("started")
    run_dir.append_event("done")
    assert [e["event"] for e in run_dir.read_events()] == ["started", "started", "done"]


def test_only_the_end_of_long_metrics_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with path.open("w") as file:
        for step in range(20000):
            file.write(f'{{"step": {step}, "loss/total": 0.123456789}}\n')
        file.write('{"step": 20000, "lo')
    rows = last_rows(path)
    assert rows[-1]["step"] == 19999
    assert 1000 < len(rows) < 19999
    steps = [row["step"] for row in rows]
    assert steps == list(range(20000 - len(rows), 20000))  # the row cut by the limit is not half read


def test_attempts_begin_with_the_starting_process_and_end_with_their_last_word() -> None:
    tries = attempts(
        [
            event("submitted"), event("starting"), event("started"), event("training"),
            event("preempted", step=4),
            event("started"), event("failed"),
            event("starting"), event("failed"),
            event("starting"), event("started"),
        ]
    )  # fmt: skip
    assert [len(t.events) for t in tries] == [4, 2, 2, 2]
    assert [t.ending and t.ending["event"] for t in tries] == ["preempted", "failed", "failed", None]


def row(step: int, seconds: float) -> dict[str, object]:
    return {"step": step, "perf/step_seconds": seconds, "perf/data_seconds": seconds}


@pytest.mark.parametrize(
    ("training", "written", "expected"),
    [
        (
            event("training", 100.0, step=40, total_steps=80),
            130.0,
            1.5,
        ),  # 20 steps in 30 s, validation included
        (event("training", 100.0, step=60), 130.0, 0.5),  # has not moved yet: what rows of before measured
        (event("training", 140.0, step=40), 130.0, 0.5),  # clocks disagree
        (event("training", 100.0), 130.0, 0.5),  # written by an older version
    ],
)
def test_pace_is_that_of_the_newest_start(
    training: dict[str, object], written: float, expected: float
) -> None:
    rows = [row(s, 0.25) for s in (20, 40, 60)]
    attempt = Attempt(2, (event("started", 90.0), training))
    assert seconds_per_step(attempt, rows, written) == expected


def test_no_rows_no_pace() -> None:
    assert seconds_per_step(None, [], None) is None
    assert seconds_per_step(None, [{"step": 3}], 1.0) is None
    assert seconds_per_step(None, [row(1, 0.5), {"step": 1, "retrieval/x": 3.0}], 1.0) == 1.0


def test_lists_in_lists_and_endless_numbers_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    deep = b'{"event": "started", "ranks": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    path.write_bytes(deep + b'{"event": "training", "step": 1' + b"0" * 400 + b'}\n{"event": "done"}\n')
    events = read_events(path)
    assert [e["event"] for e in events] == ["training", "done"]
    assert number(events[0], "step") is None


def test_what_stands_under_the_name_of_events_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("swamp_dist").propagate = True
    os.mkfifo(tmp_path / "events.jsonl")
    run_dir = RunDir(tmp_path)
    assert run_dir.read_events() == []
    assert last_rows(tmp_path / "events.jsonl") == []
    run_dir.append_event("started")
    assert [e["event"] for e in run_dir.read_events()] == ["started"]
    assert "events.jsonl was not written by a run: it is events.jsonl.aside-1 now" in caplog.text


def test_alarms_stand_until_they_are_cleared_or_a_training_goes_on_without_them() -> None:
    raised = [{"event": "alarm", "name": name, "message": f"{name} is flat"} for name in ("loss", "gap")]
    cleared = {"event": "alarm_cleared", "name": "loss"}
    assert standing_alarms(raised) == ["loss is flat", "gap is flat"]
    assert standing_alarms([*raised, cleared]) == ["gap is flat"]
    assert standing_alarms([*raised, {"event": "training", "step": 5}]) == []
    assert standing_alarms([*raised, {"event": "training", "alarms": raised[1:]}]) == ["gap is flat"]
    assert standing_alarms([{"event": "training", "alarms": 7}, {"event": "training", "alarms": [7]}]) == []


def test_a_stop_by_an_alarm_is_that_of_the_newest_start() -> None:
    started, failed = {"event": "started"}, {"event": "failed", "by_alarm": True, "reason": "flat"}
    assert stopped_by_alarm([started, failed]) == "flat"
    assert stopped_by_alarm([started, failed, started]) == ""
    assert stopped_by_alarm([started, {"event": "failed", "reason": "flat"}]) == ""
    assert stopped_by_alarm([]) == ""
