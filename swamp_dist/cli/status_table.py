"""The table of `swamp status`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group as Stack
from rich.console import RenderableType

from swamp_dist.console import block, cell
from swamp_dist.monitor.builds import BuildStatus
from swamp_dist.monitor.overview import Overview, headline, overview
from swamp_dist.monitor.status import RunStatus
from swamp_dist.monitor.survey import Group
from swamp_dist.monitor.table import runs_table

_LONGEST, _END = 900, 300
"""Letters of a reason, and those of its end, where the fix stands; the rest is in the run's log."""


def status_grid(
    groups: Sequence[Group],
    scheduler_error: str,
    room: int | None = None,
    rows: int | None = None,
    builds: Sequence[BuildStatus] = (),
) -> RenderableType:
    """One table per group, its reasons and alarms beneath; a warning where no scheduler could be asked.

    Args:
        room: characters of a line; None = any number.
        rows: runs that a live view has room for; None shows all, in the order of their group.
        builds: of shard sets, which stand first.
    """
    parts: list[RenderableType] = [cell(build.line, "cyan") for build in builds]
    for group in groups:
        shown = Overview(group.runs, "") if rows is None else overview(group.runs, rows // len(groups))
        parts.append(cell(_title(group), "bold"))
        parts.append(runs_table(shown.shown, room))
        parts += [cell(shown.folded, "dim")] if shown.folded else []
        parts += [cell(line) for line in _reasons(shown.shown)]
        parts += [cell(line, "yellow") for line in _alarms(shown.shown)]
    if scheduler_error:
        parts.append(block(f"the scheduler could not be asked: {scheduler_error}", "yellow"))
    return Stack(*parts)


def _title(group: Group) -> str:
    if not group.pipeline:
        return str(group.path) if len(group.runs) < 2 else f"{group.path}: {headline(group.runs)}"
    drivers = {"alive": "running", "suspended": "suspended", "elsewhere": "driven on another host"}
    how = drivers.get(group.driver or "", "")
    if not how:
        finished = all(run.state == "done" for run in group.runs)
        how = "done" if finished else "not running; the same command continues it"
    return f"{group.path} (pipeline, {how}): {headline(group.runs)}"


def _reasons(runs: Sequence[RunStatus]) -> Iterator[str]:
    return (f"  {run.key}: {run.state}: {_cut(run.reason)}" for run in runs if run.reason)


def _alarms(runs: Sequence[RunStatus]) -> Iterator[str]:
    return (f"  {run.key}: alarm: {_cut(alarm)}" for run in runs for alarm in run.alarms)


def _cut(reason: str) -> str:
    if len(reason) <= _LONGEST:
        return reason
    return f"{reason[: _LONGEST - _END]} ... {reason[-_END:]}"
