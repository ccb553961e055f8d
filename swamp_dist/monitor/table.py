"""Runs as rows of a table, which `swamp status` prints and a running pipeline keeps up to date."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table

from swamp_dist.console import cell, columns_that_fit
from swamp_dist.monitor.overview import common_folder
from swamp_dist.monitor.state import State
from swamp_dist.monitor.status import RunStatus
from swamp_dist.progress import duration

_COLOURS: dict[State, str] = {
    "waiting": "dim",
    "queued": "dim",
    "starting": "cyan",
    "running": "cyan",
    "stalled": "red",
    "requeued": "yellow",
    "preempted": "yellow",
    "cancelled": "yellow",
    "failed": "red",
    "blocked": "yellow",
    "stuck": "red",
    "unreadable": "red",
    "done": "green",
}
_HEADINGS = ("run", "state", "step", "speed", "left", "restarts", "metric", "last", "best", "after")
_RIGHT = ("step", "speed", "left", "restarts", "last", "best")
_LEAST_TELLING = ("after", "metric", "last", "speed", "restarts", "left", "best", "step")
"""What is left out first where a line has no room."""
_GAP = 2
_LONGEST = 80
"""Letters of a metric's name."""


def runs_table(runs: Sequence[RunStatus], room: int | None = None) -> RenderableType:
    """One row per run: state, step, speed, time left, restarts, and its metric.

    Folders that all names begin with stand above the table. Names are never cut: where they leave no room,
    columns are left out, and a metric that all runs share is told once.

    Args:
        room: characters of a line; None = any number.
    """
    folder = common_folder([run.key for run in runs])
    rows = [(run.key.removeprefix(folder), run.state, *_figures(run, folder)) for run in runs]
    metrics = list(dict.fromkeys(_shortened(run.outcome.metric) for run in runs if run.outcome.metric))
    used = [c for c in range(len(_HEADINGS)) if c < 2 or any(row[c] for row in rows)]
    widths = [max(len(x) for x in (_HEADINGS[c], *(row[c] for row in rows))) for c in used]
    droppable = [used.index(c) for name in _LEAST_TELLING if (c := _HEADINGS.index(name)) in used]
    shown = [used[place] for place in columns_that_fit(widths, room, _GAP, droppable)]
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for c in shown:
        name = _HEADINGS[c]
        # a name or state that is wider than the line goes on in the next one
        table.add_column(name, justify="right" if name in _RIGHT else "left", overflow="fold", no_wrap=c > 1)
    for run, row in zip(runs, rows, strict=True):
        styles = {1: _COLOURS[run.state], _HEADINGS.index("after"): "dim"}
        table.add_row(*(cell(row[c], styles.get(c, "")) for c in shown))
    told = _beside(folder, metrics if _HEADINGS.index("metric") not in shown else [])
    left_out = [_HEADINGS[c] for c in used if c not in shown and _HEADINGS[c] != "metric"]
    told += [f"left out for want of room: {', '.join(left_out)}"] if left_out else []
    return Stack(table, *(cell(line, "dim") for line in told)) if told else table


def _beside(folder: str, metrics: Sequence[str]) -> list[str]:
    told = [f"all in {folder}"] if folder else []
    return told + ([f"last, best: {', '.join(metrics)}"] if metrics else [])


def _figures(run: RunStatus, folder: str) -> Iterator[str]:
    yield "" if run.step is None else f"{run.step}" + (f"/{run.total}" if run.total is not None else "")
    yield "" if run.seconds_per_step is None else speed(run.seconds_per_step)
    yield "" if run.seconds_left is None else duration(run.seconds_left)
    yield str(run.restarts) if run.restarts else ""
    yield _shortened(run.outcome.metric)
    yield "" if run.outcome.last is None else f"{run.outcome.last:.2f}"
    at = f" @{run.outcome.best_step}" if run.outcome.best_step is not None else ""
    yield "" if run.outcome.best is None else f"{run.outcome.best:.2f}{at}"
    waits = run.state in ("waiting", "blocked", "queued")
    yield ", ".join(_short(key.removeprefix(folder), run.key) for key in run.after) if waits else ""


def _shortened(metric: str) -> str:
    """A metric whose split has a name without end, with both its ends."""
    return metric if len(metric) <= _LONGEST else f"{metric[: _LONGEST - 45]}...{metric[-40:]}"


def speed(seconds_per_step: float) -> str:
    """`3.2 steps/s`, or `4.1 s/step` where a step takes more than a second."""
    if seconds_per_step > 1:
        return f"{seconds_per_step:.1f} s/step"
    return f"{1 / seconds_per_step:.3g} steps/s" if seconds_per_step > 0 else ""


def _short(key: str, beside: str) -> str:
    """A key without the cell it shares with the one beside it."""
    cell = beside.rpartition("/")[0]
    return key.removeprefix(cell + "/") if cell else key
