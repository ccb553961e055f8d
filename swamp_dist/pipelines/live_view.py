"""How a running pipeline shows itself: a live table on a terminal, timed lines in a log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import final

from rich.console import Console, RenderableType
from rich.console import Group as Stack
from rich.live import Live

from swamp_dist.console import cell
from swamp_dist.monitor.overview import headline, overview, time_left
from swamp_dist.monitor.state import LIVE, State
from swamp_dist.monitor.status import RunStatus, SchedulerAnswer, look
from swamp_dist.monitor.table import runs_table
from swamp_dist.pipelines.plan import PlannedStage
from swamp_dist.progress import duration
from swamp_dist.runs.events import number
from swamp_dist.runs.folder import RunDir

Report = Callable[[Sequence[RunStatus]], None]
"""Called about once per second with all stages, and once at the end."""
_FOLLOWED = SchedulerAnswer(error="the pipeline follows it")
"""Instead of a question to the scheduler every second: a task of the pipeline waits for each job."""
_FEWEST_ROWS, _LINES_AROUND = 3, 6
"""Stages that a terminal shows at least, and its lines beside them."""


def pending_status(stage: PlannedStage, began: float) -> RunStatus:
    """How a stage stands that this pipeline has yet to bring to its end: what `swamp status` says of its
    folder.

    Its folder may tell of an attempt that ended. Another one follows, so that it counts as `starting` where
    it was launched after `began` (seconds since 1970), else as `waiting`.
    """
    folder = RunDir(stage.run_dir)
    status = look(folder, key=stage.key, after=stage.after, asked=_FOLLOWED)
    if status.state in LIVE or status.state in ("done", "stuck"):
        return status
    launched = any(
        event["event"] in ("launched", "submitted") and (number(event, "time") or 0.0) >= began
        for event in folder.read_events()
    )
    return replace(status, state="starting" if launched else "waiting", reason="")


@contextlib.contextmanager
def live_view(console: Console, line_seconds: float = 30.0, at_once: int = 1) -> Iterator[Report]:
    """A report for the time of the block: a table on a terminal, of the stages that there is room for, else a
    line for each change of state, for a running stage every `line_seconds`, and for all together.

    Args:
        at_once: stages that may run at the same time.
    """
    paces = _Paces(at_once)
    if not console.is_terminal:
        yield _Lines(console, line_seconds, paces).report
        return
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        yield lambda runs: live.update(_screen(runs, console, paces))


def _screen(runs: Sequence[RunStatus], console: Console, paces: _Paces) -> RenderableType:
    """As many stages as the terminal has lines for: what does not fit would be cut off by it."""
    view = overview(runs, max(_FEWEST_ROWS, console.height - _LINES_AROUND))
    lines = [cell(headline(runs, paces.left(runs)), "bold"), cell(view.folded, "dim")]
    return Stack(lines[0], runs_table(view.shown, console.width), *(lines[1:] if view.folded else []))


@final
class _Paces:
    """How long stages have taken that were done while they were watched, and so how long the rest takes."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._began: dict[str, float] = {}
        self._taken: dict[str, float] = {}

    def left(self, runs: Sequence[RunStatus]) -> float | None:
        """Seconds until all are done; None while nothing tells."""
        now = time.monotonic()
        for run in runs:
            if run.state in LIVE - {"queued"}:
                self._began.setdefault(run.key, now)
            elif run.state == "done" and run.key in self._began:
                self._taken.setdefault(run.key, now - self._began[run.key])
        return time_left(runs, self._taken, self._at_once)


@final
class _Lines:
    """Plain lines: what a batch log wants."""

    def __init__(self, console: Console, every: float, paces: _Paces) -> None:
        self._console, self._every, self._paces = console, every, paces
        self._state: dict[str, tuple[State, int]] = {}
        self._printed: dict[str, float] = {}

    def report(self, runs: Sequence[RunStatus]) -> None:
        """Print a line for each stage that has something new to say."""
        now, left, ended = time.monotonic(), self._paces.left(runs), False
        for run in runs:
            changed = self._state.get(run.key) != (run.state, run.restarts)
            due = run.state == "running" and now - self._printed.get(run.key, now) >= self._every
            if changed and run.state != "waiting" or due:
                self._printed[run.key] = now
                said = run.reason if run.state == "stuck" else _position(run)
                line = f"{time.strftime('%H:%M:%S')} {run.key}: {run.state} {said}".rstrip()
                self._console.print(cell(line), soft_wrap=True)
                ended |= changed and run.state == "done"
            self._state[run.key] = (run.state, run.restarts)
        if ended and len(runs) > 1:
            self._console.print(cell(f"{time.strftime('%H:%M:%S')} {headline(runs, left)}"), soft_wrap=True)


def _position(run: RunStatus) -> str:
    """`step 120/400, 2 min left` as far as known."""
    parts = []
    if run.step is not None and run.state == "running":
        parts.append(f"step {run.step}" + (f"/{run.total}" if run.total else ""))
    if run.seconds_left is not None:
        parts.append(f"{duration(run.seconds_left)} left")
    if run.restarts and run.state == "running":
        parts.append(f"attempt {run.restarts + 1}")
    return ", ".join(parts)
