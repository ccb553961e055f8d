"""The table of `swamp status`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from swamp_dist.launch.console import duration
from swamp_dist.launch.status import RunStatus
from swamp_dist.launch.survey import Group
from swamp_dist.launch.verdict import State

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
    "done": "green",
}
_HEADINGS = ("run", "state", "step", "speed", "left", "restarts", "metric", "last", "best")


def status_grid(groups: Sequence[Group], scheduler_error: str) -> RenderableType:
    """One table a group, its reasons beneath; a warning where the scheduler could not be asked."""
    parts: list[RenderableType] = []
    for group in groups:
        parts.append(Text(_title(group), style="bold"))
        parts.append(_table(group.runs))
        parts += [Text(line) for line in _reasons(group.runs)]
    if scheduler_error:
        parts.append(Text(f"the scheduler could not be asked: {scheduler_error}", style="yellow"))
    return Stack(*parts)


def _title(group: Group) -> str:
    if not group.pipeline:
        return str(group.path)
    drivers = {"alive": "running", "suspended": "suspended", "elsewhere": "driven on another host"}
    how = drivers.get(group.driver or "", "")
    if not how:
        finished = all(run.state == "done" for run in group.runs)
        how = "done" if finished else "not running; the same command continues it"
    return f"{group.path} (pipeline, {how})"


def _table(runs: Sequence[RunStatus]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in _HEADINGS:
        right = heading in ("step", "speed", "left", "restarts", "last", "best")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "run")
    for run in runs:
        after = f"  after {', '.join(_short(key, run.key) for key in run.after)}" if run.after else ""
        name = Text(run.key).append(after, style="dim")
        table.add_row(name, Text(run.state, style=_COLOURS[run.state]), *_figures(run))
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


def _reasons(runs: Sequence[RunStatus]) -> Iterator[str]:
    return (f"  {run.key}: {run.state}: {run.reason}" for run in runs if run.reason)


def _short(key: str, beside: str) -> str:
    """A key without the cell it shares with the one beside it."""
    cell = beside.rpartition("/")[0]
    return key.removeprefix(cell + "/") if cell else key
