"""The table of `swamp status`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group as Stack
from rich.console import RenderableType

from swamp_dist.console import block, cell
from swamp_dist.monitor.status import RunStatus
from swamp_dist.monitor.survey import Group
from swamp_dist.monitor.table import runs_table

_LONGEST, _END = 900, 300
"""Letters of a reason, and those of its end, where the fix stands; the rest is in the run's log."""


def status_grid(groups: Sequence[Group], scheduler_error: str) -> RenderableType:
    """One table per group, its reasons and alarms beneath; a warning where no scheduler could be asked."""
    parts: list[RenderableType] = []
    for group in groups:
        parts.append(cell(_title(group), "bold"))
        parts.append(runs_table(group.runs))
        parts += [cell(line) for line in _reasons(group.runs)]
        parts += [cell(line, "yellow") for line in _alarms(group.runs)]
    if scheduler_error:
        parts.append(block(f"the scheduler could not be asked: {scheduler_error}", "yellow"))
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


def _reasons(runs: Sequence[RunStatus]) -> Iterator[str]:
    return (f"  {run.key}: {run.state}: {_cut(run.reason)}" for run in runs if run.reason)


def _alarms(runs: Sequence[RunStatus]) -> Iterator[str]:
    return (f"  {run.key}: alarm: {_cut(alarm)}" for run in runs for alarm in run.alarms)


def _cut(reason: str) -> str:
    if len(reason) <= _LONGEST:
        return reason
    return f"{reason[: _LONGEST - _END]} ... {reason[-_END:]}"
