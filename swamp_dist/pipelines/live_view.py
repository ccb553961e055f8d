"""How a running pipeline shows itself: a live table on a terminal, timed lines in a log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import final

from rich.console import Console
from rich.live import Live

from swamp_dist.console import cell
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
def live_view(console: Console, line_seconds: float = 30.0) -> Iterator[Report]:
    """A report for the time of the block: a table on a terminal, else a line for each change of state and
    for a running stage every `line_seconds`."""
    if not console.is_terminal:
        yield _Lines(console, line_seconds).report
        return
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        yield lambda runs: live.update(runs_table(runs))


@final
class _Lines:
    """Plain lines: what a batch log wants."""

    def __init__(self, console: Console, every: float) -> None:
        self._console, self._every = console, every
        self._state: dict[str, tuple[State, int]] = {}
        self._printed: dict[str, float] = {}

    def report(self, runs: Sequence[RunStatus]) -> None:
        """Print a line for each stage that has something new to say."""
        now = time.monotonic()
        for run in runs:
            changed = self._state.get(run.key) != (run.state, run.restarts)
            due = run.state == "running" and now - self._printed.get(run.key, now) >= self._every
            if changed and run.state != "waiting" or due:
                self._printed[run.key] = now
                said = run.reason if run.state == "stuck" else _position(run)
                line = f"{time.strftime('%H:%M:%S')} {run.key}: {run.state} {said}".rstrip()
                self._console.print(cell(line), soft_wrap=True)
            self._state[run.key] = (run.state, run.restarts)


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
