"""Progress of a pipeline: a live table on a terminal, timed plain lines in a log."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from swamp_dist.launch.rundir import RunDir

State = Literal["waiting", "queued", "running", "done", "failed", "blocked"]
_COLOURS: dict[State, str] = {
    "waiting": "dim",
    "queued": "blue",
    "running": "cyan",
    "done": "green",
    "failed": "red",
    "blocked": "yellow",
}


@dataclass(frozen=True)
class StageStatus:
    """One stage of a pipeline as seen from its run folder."""

    key: str
    run_dir: Path
    state: State
    step: int | None = None
    total: int | None = None
    """Steps of the whole stage, once it has said so."""
    attempts: int = 0
    seconds: float = 0.0
    """Since the latest start."""
    message: str = ""
    """Why it failed or was not started, with the path of its log."""


Report = Callable[[Sequence[StageStatus]], None]
"""Called about once a second with all stages, and once at the end."""


def is_submitted(folder: RunDir) -> bool:
    """Whether a job was submitted for a folder and has not said that it ended for good."""
    kinds = [e["event"] for e in folder.read_events() if e["event"] in ("submitted", "failed", "cancelled")]
    return kinds[-1:] == ["submitted"] and not folder.done


def look(status: StageStatus, began: float) -> StageStatus:
    """The status with what the run folder tells by now: whether it waits in a queue, whether it runs, and
    how far it is."""
    folder = RunDir(status.run_dir)
    events = [e for e in folder.read_events() if _number(e, "time") >= began]
    submitted = max((i for i, e in enumerate(events) if e["event"] == "submitted"), default=-1)
    launched = [e for e in events[max(submitted, 0) :] if e["event"] == "launched"]
    if not launched:
        return status if submitted < 0 else replace(status, state="queued")
    totals = [int(_number(e, "total_steps")) for e in folder.read_events() if "total_steps" in e]
    return replace(
        status,
        state="running",
        attempts=len(launched),
        seconds=time.time() - _number(launched[-1], "time"),
        step=_last_step(folder.metrics_jsonl),
        total=totals[-1] if totals else None,
    )


def _number(event: Mapping[str, object], name: str) -> float:
    value = event.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _last_step(metrics: Path) -> int | None:
    """Step of the last whole line of metrics.jsonl."""
    if not metrics.is_file():
        return None
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 65536))
        lines = file.read().split(b"\n")[:-1]
    steps: Sequence[object] = [json.loads(line).get("step") for line in lines[-1:] if line.startswith(b"{")]
    return next((s for s in steps if isinstance(s, int)), None)


@contextlib.contextmanager
def progress(console: Console, line_seconds: float = 30.0) -> Iterator[Report]:
    """A report for the time of the block: live on a terminal, else a line for each change of state and
    for a running stage every `line_seconds`."""
    pace = Pace()
    if not console.is_terminal:
        yield _Lines(console, pace, line_seconds).report
        return
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        yield lambda statuses: live.update(_table(statuses, pace))


@final
class Pace:
    """Remembers where each stage was first seen, to tell how long the rest will take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: dict[tuple[str, int], tuple[float, int]] = {}

    def remaining(self, status: StageStatus) -> float | None:
        """Seconds to the stage's last step at its pace since first seen; None until it has moved."""
        if status.state != "running" or status.step is None or not status.total:
            return None
        now = self._clock()
        since, step = self._first.setdefault((status.key, status.attempts), (now, status.step))
        if status.step <= step or now <= since:
            return None
        return (status.total - status.step) * (now - since) / (status.step - step)


@final
class _Lines:
    """Plain lines: what a batch log wants."""

    def __init__(self, console: Console, pace: Pace, every: float) -> None:
        self._console, self._pace, self._every = console, pace, every
        self._state: dict[str, tuple[State, int]] = {}
        self._printed: dict[str, float] = {}

    def report(self, statuses: Sequence[StageStatus]) -> None:
        """Print a line for each stage that has something new to say."""
        now = time.monotonic()
        for status in statuses:
            remaining = self._pace.remaining(status)
            changed = self._state.get(status.key) != (status.state, status.attempts)
            due = status.state == "running" and now - self._printed.get(status.key, now) >= self._every
            if changed and status.state != "waiting" or due:
                self._printed[status.key] = now
                stamp = time.strftime("%H:%M:%S")
                line = f"{stamp} {status.key}: {status.state} {position(status, remaining)}".rstrip()
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)
            self._state[status.key] = (status.state, status.attempts)


def position(status: StageStatus, remaining: float | None) -> str:
    """`step 120/400, 2 min left` as far as known."""
    parts = []
    if status.step is not None and status.state == "running":
        parts.append(f"step {status.step}" + (f"/{status.total}" if status.total else ""))
    if remaining is not None:
        parts.append(f"{duration(remaining)} left")
    if status.attempts > 1:
        parts.append(f"attempt {status.attempts}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _table(statuses: Sequence[StageStatus], pace: Pace) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("stage", "state", "progress"):
        table.add_column(heading)
    for status in statuses:
        colour = _COLOURS[status.state]
        table.add_row(status.key, f"[{colour}]{status.state}[/]", position(status, pace.remaining(status)))
    return table
