"""Runs as rows of a table, which `swamp status` prints and a running pipeline keeps up to date."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from swamp_dist.console import cell
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
_LEAST = {"run": 8}
_MOST = {"metric": 60}
"""Columns of a heading: a long name of a metric leaves room for the name of its run."""
_HEADINGS = ("run", "state", "step", "speed", "left", "restarts", "metric", "last", "best")


def runs_table(runs: Sequence[RunStatus]) -> Table:
    """One row per run: state, step, speed, time left, restarts, and its metric."""
    table = Table(box=None, pad_edge=False)
    for heading in _HEADINGS:
        right = heading in ("step", "speed", "left", "restarts", "last", "best")
        table.add_column(
            heading,
            justify="right" if right else "left",
            no_wrap=heading != "run",
            min_width=_LEAST.get(heading),
            max_width=_MOST.get(heading),
        )
    for run in runs:
        after = f"  after {', '.join(_short(key, run.key) for key in run.after)}" if run.after else ""
        name = cell(run.key) + cell(after, "dim")
        table.add_row(name, cell(run.state, _COLOURS[run.state]), *map(cell, _figures(run)))
    return table


def _figures(run: RunStatus) -> Iterator[str]:
    yield "" if run.step is None else f"{run.step}" + (f"/{run.total}" if run.total is not None else "")
    yield "" if run.seconds_per_step is None else speed(run.seconds_per_step)
    yield "" if run.seconds_left is None else duration(run.seconds_left)
    yield str(run.restarts) if run.restarts else ""
    yield run.outcome.metric
    yield "" if run.outcome.last is None else f"{run.outcome.last:.2f}"
    at = f" @{run.outcome.best_step}" if run.outcome.best_step is not None else ""
    yield "" if run.outcome.best is None else f"{run.outcome.best:.2f}{at}"


def speed(seconds_per_step: float) -> str:
    """`3.2 steps/s`, or `4.1 s/step` where a step takes more than a second."""
    if seconds_per_step > 1:
        return f"{seconds_per_step:.1f} s/step"
    return f"{1 / seconds_per_step:.3g} steps/s" if seconds_per_step > 0 else ""


def _short(key: str, beside: str) -> str:
    """A key without the cell it shares with the one beside it."""
    cell = beside.rpartition("/")[0]
    return key.removeprefix(cell + "/") if cell else key
