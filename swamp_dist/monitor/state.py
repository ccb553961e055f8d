"""What state a run is in, from what was found out about it. Pure: no file, no clock, no process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from swamp_dist.records import JobState
from swamp_dist.runs.events import ENDINGS, OPENINGS, Attempt, Record, number, reason_line
from swamp_dist.runs.processes import Life

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
    "stuck",
    "unreadable",
    "done",
]
LIVE: frozenset[State] = frozenset({"queued", "starting", "running", "stalled", "requeued"})
"""States in which something still works on the run, or will without being asked."""
_LAUNCH_SECONDS = 60.0
"""Between a pipeline's `launched` and the first event of the process it starts; Python takes seconds."""


@dataclass(frozen=True)
class RunFacts:
    """All that a verdict needs."""

    done: bool
    events: Sequence[Record]
    attempt: Attempt | None
    """The newest start."""
    holder: Life | None
    """Of the process that holds the folder; None where nobody does."""
    starter: Life | None
    """Of the processes that the newest start named, the liveliest; None where it named none."""
    host: str
    """Where they are, or were."""
    job_id: str
    """Of the newest submission; empty where it was never submitted."""
    job: JobState | None
    """What the scheduler says of it; None where it knows it not, or no longer."""
    scheduler: str
    """Its name, for people."""
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


def run_state(facts: RunFacts) -> tuple[State, str]:
    """State and reason; a reason is one line, empty where there is nothing to say."""
    if facts.done:
        return "done", ""
    if facts.job is not None and facts.job.stuck:
        never = f"job {facts.job_id} can never start: {facts.job.reason}"
        return "stuck", f"{never}; {facts.job.fix}" if facts.job.fix else never
    if facts.job is not None and facts.job.phase == "waiting":
        why = f"job {facts.job_id} waits" + (f": {facts.job.reason}" if facts.job.reason else "")
        return ("requeued" if facts.attempt else "queued"), why
    if facts.holder == "suspended" or (facts.holder is None and facts.starter == "suspended"):
        return "stalled", "its process is suspended (SIGSTOP or Ctrl-Z); SIGCONT lets it go on"
    if facts.last is not None and facts.last["event"] == "waits" and (facts.job or facts.scheduler_error):
        ran = any(e["event"] in ("launched", *OPENINGS) for e in facts.events)
        return ("requeued" if ran else "stuck"), str(facts.last.get("reason"))
    if facts.holder == "alive":
        return _live(facts)
    if facts.job is not None and facts.job.phase == "running":
        return _live(facts) if _goes_on(facts) else _between_starts(facts)
    if facts.last is None or facts.last["event"] in (*ENDINGS, "cancelled"):
        return _ended(facts)
    if facts.starter == "alive":
        return "starting", _phase(facts)
    if facts.last["event"] == "launched" and _age(facts.now, facts.last) < _LAUNCH_SECONDS:
        return "starting", ""
    if {"elsewhere", "unknown"} & {facts.holder, facts.starter} and facts.job is None:
        return _unseen(facts)
    return _ended(facts)


def _goes_on(facts: RunFacts) -> bool:
    """Whether the newest start of a job that holds machines has not ended yet."""
    ended = facts.attempt is not None and facts.attempt.ending is not None
    again = facts.last is not None and facts.last["event"] in ("launched", "submitted", *OPENINGS)
    return (again or not ended) and not (facts.holder == "dead" and not again)


def _between_starts(facts: RunFacts) -> tuple[State, str]:
    """Its ranks have ended and its job has not: whoever started them still has to say what follows."""
    ending = facts.attempt.ending if facts.attempt is not None else None
    if ending is not None and ending["event"] == "failed" and ending.get("job"):
        return _ended(facts)  # the job's own last word
    if ending is not None and ending["event"] in ("preempted", "requeued"):
        return "requeued", f"{ending.get('reason') or 'asked to stop'}; waits for {facts.scheduler}"
    said = reason_line(ending.get("reason")) if ending is not None else ""
    return "requeued", f"lost a rank; waits for {facts.scheduler}" + (f" ({said})" if said else "")


def _live(facts: RunFacts) -> tuple[State, str]:
    job_seconds = facts.job.seconds if facts.job is not None and facts.holder is None else None
    # of a job that started again: its signs of before are old without its being stuck
    since = None if facts.seen is None else facts.now - facts.seen
    quiet = min((seconds for seconds in (job_seconds, since) if seconds is not None), default=0.0)
    if quiet > facts.patience:
        return "stalled", f"no sign for {quiet:.0f} s, though its process is there"
    opened = facts.attempt is not None and facts.attempt.ending is None
    return ("running" if opened and facts.attempt and facts.attempt.last("started") else "starting"), (
        _phase(facts)
    )


def _unseen(facts: RunFacts) -> tuple[State, str]:
    """Its process cannot be seen from here and no scheduler tells of it: only its signs can be judged."""
    if facts.seen is not None and facts.now - facts.seen <= facts.patience:
        return "running", _phase(facts)
    quiet = "no sign at all" if facts.seen is None else f"no sign for {facts.now - facts.seen:.0f} s"
    return "stalled", f"{quiet}; its process is, or was, on host {facts.host}: look there"


def _phase(facts: RunFacts) -> str:
    if facts.last is not None and facts.last["event"] == "cancelled":
        return "asked to stop; saves at the next step"
    again = facts.last is not None and facts.last["event"] == "launched"
    if again or facts.attempt is None or facts.attempt.last("started") is None:
        return "its ranks are getting ready"
    return "evaluating" if facts.step is not None and facts.step == facts.total else ""


def _ended(facts: RunFacts) -> tuple[State, str]:
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
        return "failed", reason_line(last.get("reason")) or "no reason noted"
    job = f" (job {facts.job_id}: {facts.job.word})" if facts.job is not None else ""
    return "failed", f"stopped without a word {_where(facts)}{job}; the same command continues"


def _submitted(facts: RunFacts) -> tuple[State, str]:
    if facts.scheduler_error:
        return "queued", f"submitted as job {facts.job_id}; {facts.scheduler_error}"
    if facts.job is not None:
        return "failed", f"job {facts.job_id} ended before its ranks began: {facts.job.word}"
    return "failed", f"job {facts.job_id} left the scheduler and its ranks never began"


def _where(facts: RunFacts) -> str:
    if facts.step is not None:
        return f"at step {facts.step}"
    begun = facts.attempt is not None and facts.attempt.last("started") is not None
    return "before its first step" if begun else "before its ranks were ready"


def _age(now: float, event: Record) -> float:
    return now - (number(event, "time") or 0.0)
