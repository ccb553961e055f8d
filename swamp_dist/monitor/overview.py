"""Many runs at a glance: how many are done, how long the rest will take, which to show where not all fit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swamp_dist.monitor.state import LIVE
from swamp_dist.monitor.status import RunStatus
from swamp_dist.progress import duration

_RANK = {"running": 0, "stalled": 1, "starting": 2, "requeued": 3, "queued": 4}
_ENDED_BADLY = frozenset({"failed", "stuck", "unreadable", "cancelled", "preempted", "blocked"})


@dataclass(frozen=True)
class Overview:
    """The runs to show, in the order to show them, and what became of the others."""

    shown: tuple[RunStatus, ...]
    folded: str
    """One line on the runs that are not shown; empty where all are."""


def headline(runs: Sequence[RunStatus], seconds_left: float | None = None) -> str:
    """`12 of 63 done, 2 running, 1 failed, about 9 min left`"""
    counts = {
        "running": sum(run.state in LIVE - {"queued"} for run in runs),
        "queued": sum(run.state == "queued" for run in runs),
        "blocked": sum(run.state == "blocked" for run in runs),
        "failed": sum(run.state in _ENDED_BADLY - {"blocked"} for run in runs),
    }
    parts = [f"{sum(run.state == 'done' for run in runs)} of {len(runs)} done"]
    parts += [f"{count} {word}" for word, count in counts.items() if count]
    parts += [f"about {duration(seconds_left)} left"] if seconds_left is not None else []
    return ", ".join(parts)


def time_left(runs: Sequence[RunStatus], taken: dict[str, float], at_once: int) -> float | None:
    """Seconds until all runs are done, `at_once` of them at a time; None before one of them has ended.

    A run that is to come takes what runs of its name have taken in other cells, else the mean of all. Stages
    that wait for each other are counted as if they did not: the figure is about right for many cells.

    Args:
        taken: seconds of runs that are done, by key.
    """
    if not taken:
        return None
    by_name: dict[str, list[float]] = {}
    for key, seconds in taken.items():
        by_name.setdefault(_name(key), []).append(seconds)
    usual = statistics.fmean(taken.values())
    known = {name: statistics.fmean(values) for name, values in by_name.items()}
    left, longest = 0.0, 0.0
    for run in runs:
        if run.state == "done" or run.state in _ENDED_BADLY:
            continue
        whole = known.get(_name(run.key), usual)
        share = run.step / run.total if run.step and run.total else 0.0
        seconds = run.seconds_left if run.seconds_left is not None else whole * (1 - share)
        left, longest = left + seconds, max(longest, seconds)
    return max(left / max(1, at_once), longest)


def overview(runs: Sequence[RunStatus], rows: int | None = None) -> Overview:
    """Running ones first, then those that ended badly, then those to come; done ones last.

    Args:
        rows: lines that there is room for; None shows all.
    """
    ordered = sorted(runs, key=_place)  # stable: the order of the graph within each
    if rows is None or len(ordered) <= rows:
        return Overview(tuple(ordered), "")
    kept = [run for run in ordered if run.state != "done"][: max(1, rows - 1)]
    left_out = [run for run in ordered if all(run is not each for each in kept)]
    return Overview(tuple(kept), f"not shown: {', '.join(_counted(left_out))}")


def common_folder(keys: Sequence[str]) -> str:
    """The folders that all keys begin with, with the slash; empty for one key, or where they share none."""
    if len(keys) < 2:
        return ""
    parts = [key.split("/")[:-1] for key in keys]
    shared = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return "".join(f"{name}/" for name in shared)


def _place(run: RunStatus) -> float:
    if run.state in _RANK:
        return _RANK[run.state]
    if run.state in _ENDED_BADLY - {"blocked"}:
        return 10
    return {"waiting": 11, "blocked": 12}.get(run.state, math.inf)


def _counted(runs: Iterable[RunStatus]) -> list[str]:
    counts: dict[str, int] = {}
    for run in runs:
        counts[run.state] = counts.get(run.state, 0) + 1
    return [f"{count} {state}" for state, count in counts.items()]


def _name(key: str) -> str:
    return key.rpartition("/")[2]
