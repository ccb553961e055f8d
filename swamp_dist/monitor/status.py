"""How one run stands, seen from outside: nothing is locked, written or waited for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swamp_dist.launch import journal
from swamp_dist.launch.journal import Attempt, Record, number
from swamp_dist.launch.outcome import Outcome, of_result, of_training
from swamp_dist.launch.processes import Life, life, mark_from
from swamp_dist.launch.rundir import RunDir
from swamp_dist.launch.scheduler import Job
from swamp_dist.launch.verdict import Facts, State, judge
from swamp_dist.records import UserError
from swamp_dist.train.commit_folder import step_folders

STALLED_AFTER = 600.0
"""Seconds without a sign after which a live run counts as stalled, where its steps are not slower still."""
_ROWS_OF_SILENCE = 10.0
_LIVELIEST: Sequence[Life] = ("alive", "suspended", "elsewhere", "unknown", "dead")


@dataclass(frozen=True)
class RunStatus:
    """One run as it stands."""

    key: str
    """Its name inside its group: the stage's key, or the path below the folder that was asked for."""
    run_dir: Path
    state: State
    reason: str
    """What there is to say about the state in one line; why it last ended, where it did."""
    restarts: int
    step: int | None
    """Updates done, by the last logged row or commit."""
    total: int | None
    seconds_per_step: float | None
    seconds_left: float | None
    """To the last step at that pace; None where the run does not move."""
    committed: int | None
    """Step of the newest commit folder."""
    world_size: int | None
    host: str
    job_id: str
    outcome: Outcome
    seen: float | None
    """When it last gave a sign, seconds since 1970."""
    after: tuple[str, ...] = ()
    """Keys of the stages it waits for."""


@dataclass(frozen=True)
class Asked:
    """What the scheduler says of a run: its job, if it knows one, or why it could not be asked."""

    job: Job | None = None
    error: str = ""


def look(
    run_dir: RunDir,
    *,
    key: str = "",
    after: tuple[str, ...] = (),
    asked: Asked | None = None,
    stalled_after: float = STALLED_AFTER,
) -> RunStatus:
    """The status of the run in a folder; never raises over what a live or broken run left there."""
    events = run_dir.read_events()
    tries = journal.attempts(events)
    rows = journal.last_rows(run_dir.metrics_jsonl)
    facts, pace = _facts(run_dir, events, tries, rows, asked or Asked(), stalled_after)
    state, reason = judge(facts)
    outcome, total = of_training(events, rows), facts.total
    if facts.done:
        try:
            result = run_dir.read_result()
            outcome = of_result(result) if result is not None else outcome
        except UserError as error:
            state, reason = "failed", str(error).splitlines()[0]
    left = total - facts.step if total is not None and facts.step is not None else None
    return RunStatus(
        key=key or str(run_dir.path),
        run_dir=run_dir.path,
        state=state,
        reason=reason,
        restarts=max(0, sum(each.last("started") is not None for each in tries) - 1),
        step=facts.step,
        total=total,
        seconds_per_step=pace,
        seconds_left=left * pace if state == "running" and left and pace else None,
        committed=next((step for step, _ in step_folders(run_dir.checkpoints)), None),
        world_size=_world_size(tries),
        host=facts.host,
        job_id=facts.job_id,
        outcome=outcome,
        seen=facts.seen,
        after=after,
    )


def job_id(events: Sequence[Record]) -> str:
    """The scheduler's id of the newest submission; empty where there is none."""
    # not of `started`: `swamp run` inside an interactive allocation is not that allocation
    ids = [str(e["job"]) for e in events if e["event"] == "submitted" and e.get("job")]
    return ids[-1] if ids else ""


def owner_life(folder: Path) -> Life | None:
    """Of the process that holds a run's or a pipeline's folder; None where nobody does."""
    mark = mark_from(RunDir(folder).read_owner())
    return None if mark is None else life(mark)


def _facts(
    folder: RunDir,
    events: Sequence[Record],
    tries: Sequence[Attempt],
    rows: Sequence[Record],
    asked: Asked,
    stalled_after: float,
) -> tuple[Facts, float | None]:
    """What the verdict needs, and the seconds of a step."""
    attempt, written = tries[-1] if tries else None, _written(folder.metrics_jsonl)
    pace = journal.seconds_per_step(attempt, rows, written)
    marks = attempt.marks if attempt else []
    lives = [life(mark) for mark in marks]
    owner = mark_from(folder.read_owner())
    named = ([owner] if owner else []) or marks[-1:]
    times = (written, number(events[-1], "time") if events else None)
    facts = Facts(
        done=folder.done,
        events=events,
        attempt=attempt,
        owner=None if owner is None else life(owner),
        starter=next((each for each in _LIVELIEST if each in lives), None),
        host=named[0].host if named else "",
        job_id=job_id(events),
        job=asked.job,
        scheduler_error=asked.error,
        step=_step(events, rows),
        total=_total(events),
        now=time.time(),
        seen=max((moment for moment in times if moment), default=None),
        patience=max(stalled_after, _ROWS_OF_SILENCE * (pace or 0.0) * _log_every(events)),
    )
    return facts, pace


def _written(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _step(events: Sequence[Record], rows: Sequence[Record]) -> int | None:
    """The later of the last logged row and the last step that an event named."""
    noted = [e for e in events if e["event"] in ("committed", "preempted", "training")][-1:]
    steps = [number(record, "step") for record in (*rows[-1:], *noted)]
    return max((int(step) for step in steps if step is not None), default=None)


def _total(events: Sequence[Record]) -> int | None:
    totals = [number(e, "total_steps") for e in events if e["event"] == "training"]
    return int(totals[-1]) if totals and totals[-1] is not None else None


def _log_every(events: Sequence[Record]) -> float:
    return next((n for e in reversed(events) if (n := number(e, "log_every"))), 1.0)


def _world_size(tries: Sequence[Attempt]) -> int | None:
    sizes = [number(event, "world_size") for each in tries[-1:] for event in each.events]
    return next((int(size) for size in reversed(sizes) if size is not None), None)
