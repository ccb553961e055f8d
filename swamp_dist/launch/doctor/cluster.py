"""Whether a run has the time to save when SLURM asks it to, and is let in again."""

from __future__ import annotations

import re
from collections.abc import Iterator

from swamp_dist.config import SlurmCluster
from swamp_dist.launch import journal, scheduler
from swamp_dist.launch.doctor.finding import Finding, Subject
from swamp_dist.launch.journal import number
from swamp_dist.launch.rundir import RunDir

_EARLY = 60.0
"""SLURM looks at signals once a minute: it may come so much earlier, never later."""
_MARGIN = 2.0
"""Steps and saves vary: a grace time of twice the measured one is enough."""


def grace(subject: Subject) -> Iterator[Finding]:
    """KillWait and the signal's seconds against one step plus one save."""
    if not isinstance(subject.cluster, SlurmCluster):
        return
    needed, how = seconds_to_save(subject.run_dir)
    signalled = float(subject.cluster.signal_seconds)
    if needed is None:
        yield Finding(
            "grace", "warning", f"signal_seconds = {signalled:.0f}; {how}", "compare again with --run-dir RUN"
        )
        return
    said = f"saving takes {needed:.1f} s ({how}), signal_seconds = {signalled:.0f}"
    if signalled < _MARGIN * needed:
        fix = f"signal_seconds: {_MARGIN * needed + _EARLY:.0f} in the cluster file"
        yield Finding("grace", "problem", said, fix)
    else:
        yield Finding("grace", "ok", said)
    yield from _kill_wait(needed)


def _kill_wait(needed: float) -> Iterator[Finding]:
    try:
        told = re.match(r"\d+", scheduler.settings().get("KillWait", ""))
    except scheduler.SchedulerError as error:
        yield Finding("grace", "warning", f"KillWait is not known: {error}", "ask on a login node")
        return
    seconds = float(told[0]) if told else 30.0
    said = f"scancel and preemption leave KillWait = {seconds:.0f} s, saving takes {needed:.1f} s"
    if seconds < needed:
        fix = "stop with `scancel --signal=USR2 JOB`, or have KillWait raised; a killed run loses its last steps"
        yield Finding("grace", "warning", said, fix)
    else:
        yield Finding("grace", "ok", said)


def seconds_to_save(run_dir: RunDir | None) -> tuple[float | None, str]:
    """Seconds of one step plus the slowest of the last saves of a run, and how they come about."""
    if run_dir is None:
        return None, "no run was given to measure a step and a save in"
    events = run_dir.read_events()
    saves = [s for e in events if e["event"] == "committed" and (s := number(e, "seconds")) is not None]
    tries = journal.attempts(events)
    step = journal.seconds_per_step(
        tries[-1] if tries else None, journal.last_rows(run_dir.metrics_jsonl), None
    )
    if step is None or not saves:
        return None, f"{run_dir.path} has no step or no commit yet"
    save = max(saves[-20:])
    return step + save, f"a step {step:.2g} s, a commit {save:.2g} s"


def requeue(subject: Subject) -> Iterator[Finding]:
    """Whether the cluster lets a job into the queue again."""
    if not isinstance(subject.cluster, SlurmCluster):
        return
    try:
        settings = scheduler.settings()
    except scheduler.SchedulerError as error:
        yield Finding("requeue", "warning", f"not known: {error}", "ask on a login node")
        return
    if settings.get("JobRequeue", "1") == "0":
        said = "JobRequeue = 0: jobs are requeued only where they ask for it, as `swamp submit` does"
        yield Finding("requeue", "warning", said, "after `scontrol requeue` was refused, submit again")
    else:
        yield Finding("requeue", "ok", f"JobRequeue = {settings.get('JobRequeue', '1 (default)')}")
