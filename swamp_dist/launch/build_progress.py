"""How a build shows itself: a bar with ETA on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from swamp_dist.data.build import Report

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def shard_progress(name: str, console: Console, line_seconds: float = 30.0) -> Iterator[Report]:
    """A report for `build_shards`: how many shards are finished."""
    if not console.is_terminal:
        yield Lines(name, line_seconds, time.monotonic)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class Lines:
    """Logs finished shards when `seconds` have passed since the last line, and at the end."""

    def __init__(self, name: str, seconds: float, clock: Callable[[], float]) -> None:
        self._name = name
        self._seconds = seconds
        self._clock = clock
        self._last = clock()
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, total: int) -> None:
        """Take note of `done` of `total` shards; logs when it is time."""
        now = self._clock()
        if self._first is None:
            self._first = (done, now)
        if now - self._last < self._seconds and done < total:
            return
        self._last = now
        logger.info("%s: %d of %d shards%s", self._name, done, total, self._left(done, total, now))

    def _left(self, done: int, total: int, now: float) -> str:
        assert self._first is not None
        first, began = self._first
        if done in (first, total):
            return ""
        minutes, seconds = divmod(round((total - done) * (now - began) / (done - first)), 60)
        return f", {minutes} min {seconds:02d} s left"
