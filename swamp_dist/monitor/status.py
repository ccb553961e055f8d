"""How one run stands, seen from outside: nothing is locked, written or waited for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swamp_dist.errors import UserError
from swamp_dist.evaluate.results import better, metric_names, named_metrics, splits_text
from swamp_dist.monitor.state import RunFacts, State, run_state
from swamp_dist.plain_files import read_plain_tail
from swamp_dist.records import JobState, StageResult
from swamp_dist.runs import events as journal
from swamp_dist.runs.events import Attempt, Record, job_id, number
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.processes import Life, life, mark_from
from swamp_dist.train.checkpoint_folder import step_folders

STALLED_AFTER = 600.0
"""Seconds without a sign after which a live run counts as stalled, where its steps are not slower still."""
_ROWS_OF_SILENCE = 10.0
_SHOWN = "pair/mean/r_at_1"
_LIVELIEST: Sequence[Life] = ("alive", "suspended", "elsewhere", "unknown", "dead")


@dataclass(frozen=True)
class BestMetric:
    """One metric of a run; recalls are percentages."""

    metric: str = ""
    """Split and name, for example `validation pair/mean/r_at_1`; empty where nothing was evaluated yet."""
    last: float | None = None
    best: float | None = None
    best_step: int | None = None
    """Step of the best value, or of the weights that a finished run selected."""


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
    outcome: BestMetric
    seen: float | None
    """When it last gave a sign, seconds since 1970."""
    after: tuple[str, ...] = ()
    """Keys of the stages it waits for."""
    alarms: tuple[str, ...] = ()
    """What the alarms say that stand, or stood when its training ended; one line each."""


@dataclass(frozen=True)
class SchedulerAnswer:
    """What the scheduler says of a run: its job, if it knows one, or why it could not be asked."""

    job: JobState | None = None
    error: str = ""
    scheduler: str = "the scheduler"


def look(
    run_dir: RunDir,
    *,
    key: str = "",
    after: tuple[str, ...] = (),
    asked: SchedulerAnswer | None = None,
    stalled_after: float = STALLED_AFTER,
) -> RunStatus:
    """The status of the run in a folder; never raises over what a live or broken run left there."""
    events = run_dir.read_events()
    tries = journal.attempts(events)
    rows = journal.last_rows(run_dir.metrics_jsonl)
    facts, pace = _facts(run_dir, events, tries, rows, asked or SchedulerAnswer(), stalled_after)
    state, reason = run_state(facts)
    outcome, total = best_of_training(events, rows), facts.total
    if facts.done:
        try:
            result = run_dir.read_result()
            outcome = best_of_result(result, outcome) if result is not None else outcome
        except UserError as error:
            state, reason = "failed", str(error).splitlines()[0]
    elif (obstacle := _obstacle(run_dir)) is not None:
        state, reason = "unreadable", obstacle
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
        alarms=tuple(journal.standing_alarms(events)),
    )


def _obstacle(run_dir: RunDir) -> str | None:
    """What stands in the place of a file that tells of the run, and cannot be read."""
    for path in (run_dir.events_jsonl, run_dir.metrics_jsonl):
        try:
            read_plain_tail(path, 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{path.name}: {error.strerror or error}"
    return None


def unreadable(run_dir: RunDir, key: str, after: tuple[str, ...], error: Exception) -> RunStatus:
    """The status of a run whose folder tells nothing: what was met there."""
    said = (str(error).splitlines() or [""])[0]
    reason = f"{type(error).__name__}: {said}"
    return RunStatus(
        key or str(run_dir.path), run_dir.path, "unreadable", reason, 0, None, None, None, None, None, None,
        "", "", BestMetric(), None, after,
    )  # fmt: skip


def holder_life(folder: Path) -> Life | None:
    """Of the process that holds a run's or a pipeline's folder; None where nobody does."""
    mark = mark_from(RunDir(folder).read_holder())
    return None if mark is None else life(mark)


def _facts(
    folder: RunDir,
    events: Sequence[Record],
    tries: Sequence[Attempt],
    rows: Sequence[Record],
    asked: SchedulerAnswer,
    stalled_after: float,
) -> tuple[RunFacts, float | None]:
    """What the verdict needs, and the seconds of a step."""
    attempt, written = tries[-1] if tries else None, _written(folder.metrics_jsonl)
    pace = journal.seconds_per_step(attempt, rows, _trained_until(attempt) if folder.done else written)
    marks = attempt.marks if attempt else []
    lives = [life(mark) for mark in marks]
    holder = mark_from(folder.read_holder())
    named = ([holder] if holder else []) or marks[-1:]
    times = (written, number(events[-1], "time") if events else None)
    facts = RunFacts(
        done=folder.done,
        events=events,
        attempt=attempt,
        holder=None if holder is None else life(holder),
        starter=next((each for each in _LIVELIEST if each in lives), None),
        host=named[0].host if named else "",
        job_id=job_id(events),
        job=asked.job,
        scheduler=asked.scheduler,
        scheduler_error=asked.error,
        step=_step(events, rows),
        total=_total(events),
        now=time.time(),
        seen=max((moment for moment in times if moment), default=None),
        patience=max(stalled_after, _ROWS_OF_SILENCE * (pace or 0.0) * _log_every(events)),
    )
    return facts, pace


def _trained_until(attempt: Attempt | None) -> float | None:
    """When the last step of a finished run was committed: a copy of its folder has files of another time."""
    told = attempt and (attempt.last("committed") or attempt.last("done"))
    return number(told, "time") if told else None


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


def best_of_result(result: StageResult, validated: BestMetric = BestMetric()) -> BestMetric:
    """The mean R@1 of a finished run's last evaluation that has one, of plain scores if there is such; else
    `validated`, what its training has validated by."""
    for evaluation in sorted(reversed(result.evaluations), key=lambda each: bool(each.normalised)):
        if _SHOWN in metric_names(evaluation.metrics):
            value = named_metrics(evaluation.metrics, _SHOWN)
            return BestMetric(f"{splits_text(evaluation)} {_SHOWN}", value, None, result.selected_step)
    return validated if validated.best is not None else BestMetric(best_step=result.selected_step)


def best_of_training(events: Sequence[Record], rows: Sequence[Record]) -> BestMetric:
    """The last and the best value of the metric it validates by, from the newest commit and the rows."""
    training = next((e for e in reversed(events) if e["event"] == "training"), {})
    metric, split = training.get("metric"), training.get("validates")
    if not isinstance(metric, str) or metric.count("/") != 2:
        return BestMetric()
    commit = next((e for e in reversed(events) if e["event"] == "committed"), {})
    last, best, at = None, number(commit, "best_value"), number(commit, "best_step")
    for row in rows:
        value = _figure(row, str(split), metric)
        last = last if value is None else value
        if value is not None and (best is None or better(metric, value, best)):
            best, at = value, number(row, "step")
    if best is None:
        return BestMetric()
    return BestMetric(f"{split} {metric}", last, best, None if at is None else int(at))


def _figure(row: Record, split: str, metric: str) -> float | None:
    """The metric in a row of metrics.jsonl; `mean` is taken over both directions, which the row has."""
    relevance, direction, name = metric.split("/")
    directions = ("a_to_b", "b_to_a") if direction == "mean" else (direction,)
    values = [number(row, f"retrieval/{split}/{relevance}/{d}/{name}") for d in directions]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None
