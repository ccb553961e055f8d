"""How long work shows itself: a bar with the time left on a terminal, timed lines in a log."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from swamp_dist.console import open_console

logger = logging.getLogger(__name__)
_COLUMNS = (
    TextColumn("{task.description}", markup=False),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[note]}", markup=False),
)


class WorkProgress:
    """Shows how much of a known amount of work is done."""

    def __init__(
        self,
        name: str,
        position: str,
        *,
        shown: bool = True,
        line_seconds: float = 30.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            position: where the work is, in a line of a log, for example `step {done} of {total}`.
            shown: False on ranks that stay silent.
            line_seconds: time between two lines.
            console: default: stderr.
        """
        self._name, self._position, self._shown = name, position, shown
        self._line_seconds, self._clock = line_seconds, clock
        self._note, self._last_line = "", -math.inf
        console = console or open_console(error=True, terminal=sys.stderr.isatty())
        self._as_bar = shown and console.is_terminal
        # The speed is the mean since the first report, over its last 1000 at most: steps differ in length.
        self._bar = Progress(
            *_COLUMNS,
            console=console,
            get_time=clock,
            speed_estimate_period=math.inf,
        )
        self._task = self._bar.add_task(name, total=None, note="")

    def __enter__(self) -> WorkProgress:
        if self._as_bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._as_bar:
            with contextlib.suppress(OSError):  # the terminal may have been closed
                self._bar.stop()

    def show(self, done: int, total: int, note: str | None = None) -> None:
        """Show that `done` of `total` parts are done; called after every part. None keeps the last note."""
        if not self._shown:
            return
        self._note = self._note if note is None else note
        self._bar.update(self._task, completed=done, total=total, note=self._note)
        now = self._clock()
        if not self._as_bar and (now - self._last_line >= self._line_seconds or done == total):
            self._last_line = now
            remaining = self._bar.tasks[0].time_remaining if done < total else None
            left = "" if remaining is None else f"{duration(remaining)} left"
            parts = (self._position.format(done=done, total=total), self._note, left)
            logger.info("%s: %s", self._name, ", ".join(part for part in parts if part))


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
