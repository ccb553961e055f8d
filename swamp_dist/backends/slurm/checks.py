"""SLURM's part of `swamp doctor`: whether a run has the time to save, and is let in again."""

from __future__ import annotations

import re
from collections.abc import Iterator

from swamp_dist.backends.protocols import SchedulerError
from swamp_dist.backends.slurm import queue
from swamp_dist.backends.slurm.commands import command_path
from swamp_dist.environment import job_id
from swamp_dist.records import Finding

_EARLY = 60.0
"""SLURM looks at signals once a minute: it may come so much earlier, never later."""
_MARGIN = 2.0
"""Steps and saves vary: a grace time of twice the measured one is enough."""


def check_time_to_save(signal_seconds: float, needed: float | None, how: str) -> Iterator[Finding]:
    """The signal's seconds and KillWait against `needed` seconds; see `CheckedBackend`."""
    if needed is None:
        said = f"signal_seconds = {signal_seconds:.0f}; {how}"
        yield Finding("grace", "warning", said, "compare again with --run-dir RUN")
        return
    said = f"saving takes {needed:.1f} s ({how}), signal_seconds = {signal_seconds:.0f}"
    if signal_seconds < _MARGIN * needed:
        fix = f"signal_seconds: {_MARGIN * needed + _EARLY:.0f} in the cluster file"
        yield Finding("grace", "problem", said, fix)
    else:
        yield Finding("grace", "ok", said)
    yield from _kill_wait(needed)


def _kill_wait(needed: float) -> Iterator[Finding]:
    try:
        told = re.match(r"\d+", queue.settings().get("KillWait", ""))
    except SchedulerError as error:
        yield Finding("grace", "warning", f"KillWait is not known: {error}", "ask on a login node")
        return
    seconds = float(told[0]) if told else 30.0
    said = f"scancel and preemption leave KillWait = {seconds:.0f} s, saving takes {needed:.1f} s"
    if seconds < needed:
        fix = "stop with `scancel --signal=USR2 JOB`, or have KillWait raised: a kill loses the last steps"
        yield Finding("grace", "warning", said, fix)
    else:
        yield Finding("grace", "ok", said)


def check_requeue() -> Iterator[Finding]:
    """Whether the cluster lets a job into the queue again, asked on a node of a job also by its commands."""
    if job_id() and command_path("scontrol") is None:
        said = "this node has no scontrol: a job that has saved here cannot put itself into the queue again"
        fix = "a line of `setup` that brings it, for example module load slurm; else submit again each time"
        yield Finding("requeue", "problem", said, fix)
        return
    try:
        settings = queue.settings()
    except SchedulerError as error:
        yield Finding("requeue", "warning", f"not known: {error}", "ask on a login node")
        return
    if settings.get("JobRequeue", "1") == "0":
        said = "JobRequeue = 0: jobs are requeued only where they ask for it, as `swamp submit` does"
        yield Finding("requeue", "warning", said, "after `scontrol requeue` was refused, submit again")
    else:
        yield Finding("requeue", "ok", f"JobRequeue = {settings.get('JobRequeue', '1 (default)')}")
