"""What state a run is in, from what was found out about it. Pure: no file, no clock, no process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from swamp_dist.launch.journal import ENDINGS, Attempt, Record, number
from swamp_dist.launch.processes import Life
from swamp_dist.launch.scheduler import Job

State = Literal[
    "waiting",
    "queued",
    "starting",
    "running",
    "stalled",
    "requeued",
    "preempted",
    "cancelled",
    "failed",
    "blocked",
    "done",
]
LIVE: frozenset[State] = frozenset({"queued", "starting", "running", "stalled", "requeued"})
"""States in which something still works on the run, or will without being asked."""
_LAUNCH_SECONDS = 60.0
"""Between a pipeline's `launched` and the first word of the process it starts; a python start takes seconds."""


@dataclass(frozen=True)
class Facts:
    """All that a verdict needs."""

    done: bool
    events: Sequence[Record]
    attempt: Attempt | None
    """The newest start."""
    owner: Life | None
    """Of the process that holds the folder; None where nobody does."""
    starter: Life | None
    """Of the processes that the newest start named, the liveliest; None where it named none."""
    host: str
    """Where they are, or were."""
    job_id: str
    """Of the newest submission; empty where it was never submitted."""
    job: Job | None
    """What the scheduler says of it; None where it knows it not, or no longer."""
    scheduler_error: str
    """Why the scheduler could not be asked; empty where it could."""
    step: int | None
    total: int | None
    now: float
    seen: float | None
    """When the run last gave a sign, seconds since 1970."""
    patience: float
    """Seconds without a sign after which a run counts as stalled."""

    @property
    def last(self) -> Record | None:
        """The newest event."""
        return self.events[-1] if self.events else None


def judge(facts: Facts) -> tuple[State, str]:
    """State and reason; a reason is one line, empty where there is nothing to say."""
    if facts.done:
        return "done", ""
    if facts.job is not None and facts.job.waiting:
        why = f"job {facts.job_id} waits" + (f": {facts.job.reason}" if facts.job.reason else "")
        return ("requeued" if facts.attempt else "queued"), why
    if facts.owner == "suspended" or (facts.owner is None and facts.starter == "suspended"):
        return "stalled", "its process is suspended (SIGSTOP or Ctrl-Z); SIGCONT lets it go on"
    if facts.owner == "alive" or (facts.job is not None and facts.job.running):
        return _live(facts)
    if facts.last is None or facts.last["event"] in (*ENDINGS, "cancelled"):
        return _ended(facts)
    if facts.starter == "alive":
        return "starting", _phase(facts)
    if facts.last["event"] == "launched" and _age(facts.now, facts.last) < _LAUNCH_SECONDS:
        return "starting", ""
    if {"elsewhere", "unknown"} & {facts.owner, facts.starter} and facts.job is None:
        return _unseen(facts)
    return _ended(facts)


def _live(facts: Facts) -> tuple[State, str]:
    job_seconds = facts.job.seconds if facts.job is not None and facts.owner is None else None
    # of a job that started again: its signs of before are old without its being stuck
    since = None if facts.seen is None else facts.now - facts.seen
    quiet = min((seconds for seconds in (job_seconds, since) if seconds is not None), default=0.0)
    if quiet > facts.patience:
        return "stalled", f"no sign for {quiet:.0f} s, though its process is there"
    opened = facts.attempt is not None and facts.attempt.ending is None
    return ("running" if opened and facts.attempt and facts.attempt.last("started") else "starting"), (
        _phase(facts)
    )


def _unseen(facts: Facts) -> tuple[State, str]:
    """Its process cannot be seen from here and no scheduler tells of it: only its signs can be judged."""
    if facts.seen is not None and facts.now - facts.seen <= facts.patience:
        return "running", _phase(facts)
    quiet = "no sign at all" if facts.seen is None else f"no sign for {facts.now - facts.seen:.0f} s"
    return "stalled", f"{quiet}; its process is, or was, on host {facts.host}: look there"


def _phase(facts: Facts) -> str:
    if facts.last is not None and facts.last["event"] == "cancelled":
        return "asked to stop; saves at the next step"
    if facts.attempt is None or facts.attempt.last("started") is None:
        return "its ranks are getting ready"
    return "evaluating" if facts.step is not None and facts.step == facts.total else ""


def _ended(facts: Facts) -> tuple[State, str]:
    """Nothing works on it: what its last word says, or that it had none."""
    last = facts.last
    kind = last["event"] if last is not None else None
    if last is None or kind == "done":
        return "waiting", "its result.json is gone; the same command makes it anew" if kind else ""
    if kind == "submitted":
        return _submitted(facts)
    if kind == "requeued" and facts.scheduler_error:
        return "requeued", f"job {facts.job_id} asked to be started again; {facts.scheduler_error}"
    asked = facts.attempt.last("cancelled") if facts.attempt else last if kind == "cancelled" else None
    saved = (facts.attempt.last("preempted") if facts.attempt else None) or {}
    step = number(saved, "step")
    if asked is not None:
        return "cancelled", "cancelled" + (f"; saved at step {step:.0f}" if step is not None else "")
    if kind == "preempted":
        return "preempted", f"asked to stop; saved at step {step or 0:.0f}; the same command continues"
    if kind == "requeued":
        return (
            "preempted",
            f"{last.get('reason')}; job {facts.job_id} left the queue; submit again to continue",
        )
    if kind == "failed":
        return "failed", str(last.get("reason") or "no reason noted").splitlines()[0]
    job = f" (job {facts.job_id}: {facts.job.state})" if facts.job is not None else ""
    return "failed", f"stopped without a word {_where(facts)}{job}; the same command continues"


def _submitted(facts: Facts) -> tuple[State, str]:
    if facts.scheduler_error:
        return "queued", f"submitted as job {facts.job_id}; {facts.scheduler_error}"
    if facts.job is not None:
        return "failed", f"job {facts.job_id} ended before its ranks began: {facts.job.state}"
    return "failed", f"job {facts.job_id} left the scheduler and its ranks never began"


def _where(facts: Facts) -> str:
    if facts.step is not None:
        return f"at step {facts.step}"
    begun = facts.attempt is not None and facts.attempt.last("started") is not None
    return "before its first step" if begun else "before its ranks were ready"


def _age(now: float, event: Record) -> float:
    return now - (number(event, "time") or 0.0)
