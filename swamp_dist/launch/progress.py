"""How a running stage shows itself: a bar with ETA on a terminal, timed lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from swamp_dist.distributed import World
from swamp_dist.records import StepReport

logger = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 10.0


class ProgressBar:
    """Shows the steps of one stage on rank 0; silent on the other ranks."""

    def __init__(self, name: str, world: World) -> None:
        self._name = name
        self._shown = world.is_main
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._loss = ""
        self._first: tuple[int, float] | None = None
        self._last_line = 0.0

    def __enter__(self) -> ProgressBar:
        if self._shown and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, TextColumn("{task.fields[loss]}"))
            self._task = self._bar.add_task(self._name, total=None, loss="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, step: int, total: int, report: StepReport | None) -> None:
        """Show that `step` of `total` steps are done; called after every step."""
        if not self._shown:
            return
        if report is not None:
            self._loss = f"loss {report.figures['loss/total']:.4f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, total=total, loss=self._loss)
            return
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        if now - self._last_line >= _SECONDS_BETWEEN_LINES or step == total:
            self._last_line = now
            parts = (f"{self._name}: step {step} of {total}", self._loss, self._eta(step, total, now))
            logger.info(", ".join(part for part in parts if part))

    def _eta(self, step: int, total: int, now: float) -> str:
        assert self._first is not None
        first, began = self._first
        if step in (first, total):
            return ""
        minutes, seconds = divmod(round((total - step) * (now - began) / (step - first)), 60)
        return f"{minutes} min {seconds:02d} s left"
