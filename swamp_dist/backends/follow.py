"""A stage as a job: submitted once, then followed to its end, whatever the scheduler.

Its end is told by result.json, by the job's last word in events.jsonl and by the scheduler. Whoever
follows may be killed and follow again: the job goes on meanwhile and is found by its id.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from swamp_dist.backends.jobs import failure, live_job, submit_stage, works_on
from swamp_dist.backends.protocols import JobBackend, Report, SchedulerError, StageRef
from swamp_dist.backends.registry import open_backend
from swamp_dist.config import ClusterSettings, StageSettings
from swamp_dist.environment import replaced_variables
from swamp_dist.errors import ExitCode, UserError
from swamp_dist.loading import load_dumped
from swamp_dist.records import JobState
from swamp_dist.runs.events import Record, of_job
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.provenance import write_submission
from swamp_dist.stage.resolve import resolve

LOOK_SECONDS = 1.0
"""Between two looks into the run folder."""
ASK_SECONDS = 5.0
"""Between two questions to the scheduler, which many users share."""
_SEEN_ENDED = 2
"""Questions in a row that must tell of an end: the last words in the folder may take a moment to arrive."""
_SEEN_UNKNOWN = 6
"""Questions in a row in which the scheduler must not know the job."""


@dataclass(frozen=True)
class JobExit:
    """How a job ended."""

    code: ExitCode
    """INTERRUPTED: a person cancelled it."""
    reason: str


def run_as_job(
    backend: JobBackend, run_dir: RunDir, submit: Callable[[], str], report: Report = lambda _: None
) -> int:
    """Submit the stage of a run folder, or find the job that works on it, and wait for its end; `ExitCode`.

    Args:
        submit: submits the stage, notes its job and returns the id.

    Raises:
        UserError: jobs cannot be submitted from here, or the scheduler refuses this one.
    """
    if run_dir.done:
        return ExitCode.DONE
    backend.check()
    live = _patiently(lambda: live_job(backend, run_dir))
    if live is None and run_dir.done:  # in this order: the job of a killed driver may just have ended
        return ExitCode.DONE
    job = live.id if live is not None else submit()
    report(f"job {job} {'works on it already' if live is not None else 'was submitted'}")
    ended = follow(backend, run_dir, job)
    report(ended.reason)
    return ended.code


@dataclass(frozen=True)
class JobRunner:
    """Runs the stage of a run folder as a job on a cluster; what a pipeline's task calls."""

    cluster: ClusterSettings
    environment: Mapping[str, str]
    """Variables of the process that started the pipeline: what `swamp submit` would give to the job."""
    command: tuple[str, ...]

    def __call__(self, stage_yaml: Path, run_dir: Path, ranks: int) -> int:
        """Submit the stage, or find the job that works on it, and wait for its end; an `ExitCode`.

        Raises:
            UserError: the cluster is of a backend that keeps no jobs.
        """
        del ranks  # the cluster's settings say how many
        backend, folder = open_backend(self.cluster), RunDir(run_dir)
        if not isinstance(backend, JobBackend):
            raise UserError(f"backend = {self.cluster.backend} keeps no jobs: expected one of a scheduler")
        try:
            return run_as_job(backend, folder, partial(self._submit, backend, stage_yaml, folder))
        except UserError as error:
            if folder.read_events()[-1:] == [] or folder.read_events()[-1]["event"] != "failed":
                folder.append_event("failed", reason=str(error), code=int(ExitCode.USER_MISTAKE))
            return ExitCode.USER_MISTAKE

    def _submit(self, backend: JobBackend, stage_yaml: Path, folder: RunDir) -> str:
        settings = load_dumped(stage_yaml, StageSettings)
        stage = resolve(settings, folder, backend.world_size)
        shards_hash, blend_hashes = stage.manifest.hash, stage.blend_hashes
        with replaced_variables(self.environment):
            write_submission(settings, self.cluster, folder, shards_hash, self.command, blend_hashes)
            return submit_stage(backend, StageRef(settings.name, folder))


def follow(
    backend: JobBackend, run_dir: RunDir, job: str, exit_told: Callable[[], JobExit | None] | None = None
) -> JobExit:
    """Wait until a job has ended for good, over all its starts; an end that it could not tell is noted.

    Args:
        exit_told: the end as the files tell it; None = `exit_from_folder`.
    """
    exit_told = exit_told or partial(exit_from_folder, run_dir, job)
    in_a_row, next_question = 0, time.monotonic()
    while True:
        told = exit_told()
        if told is not None:
            return told
        if time.monotonic() >= next_question:
            next_question = time.monotonic() + ASK_SECONDS
            known, answered = _ask(backend, run_dir, job)
            _note_stuck(run_dir, job, known)
            ended = exit_from_queue(job, known, run_dir.read_events()) if answered else None
            in_a_row = in_a_row + 1 if ended is not None else 0
            if ended is not None and in_a_row >= (_SEEN_ENDED if known else _SEEN_UNKNOWN):
                return exit_told() or _record_exit(run_dir, job, ended)
        time.sleep(LOOK_SECONDS)


def exit_from_folder(run_dir: RunDir, job: str) -> JobExit | None:
    """The end of a job as its run folder tells it; None where it does not."""
    if run_dir.done:
        return JobExit(ExitCode.DONE, "done")
    last = failure(run_dir.read_events(), job)
    if last is None:
        return None
    code = next((c for c in ExitCode if c == last.get("code")), ExitCode.FAILED)
    return JobExit(code, str(last.get("reason")))


def exit_from_queue(job: str, known: JobState | None, events: Sequence[Record]) -> JobExit | None:
    """The end of a job that left neither result nor last word, as the scheduler tells it. Pure.

    Args:
        known: what the scheduler says; None where it does not know the job.
    """
    cancelled = _cancelled(events, job)
    if known is not None and known.phase != "ended":
        return None
    if cancelled or (known is not None and known.code == ExitCode.INTERRUPTED):
        return JobExit(ExitCode.INTERRUPTED, f"job {job} was cancelled; the same command submits it again")
    if known is None:
        return JobExit(ExitCode.FAILED, f"job {job} is unknown to the scheduler and left no result")
    if known.code == ExitCode.HELD:
        return JobExit(ExitCode.HELD, f"job {job} found its run folder held by another run")
    if known.code == ExitCode.USER_MISTAKE:
        return JobExit(ExitCode.USER_MISTAKE, f"job {job} refused its settings or data")
    why = f" ({known.reason})" if known.reason else ""
    return JobExit(ExitCode.FAILED, f"job {job} ended as {known.word}{why} without a result")


def _note_stuck(run_dir: RunDir, job: str, known: JobState | None) -> None:
    """Leave word, once, of a job that no time brings forward: whoever waits for it would wait for ever."""
    if known is None or not known.stuck:
        return
    reason = f"job {job} can never start: {known.reason}; {known.fix}"
    if not any(e["event"] == "waits" and e.get("reason") == reason for e in run_dir.read_events()):
        run_dir.append_event("waits", job=job, reason=reason)


def _cancelled(events: Sequence[Record], job: str) -> bool:
    return any(e["event"] == "cancelled" and e.get("job") == job for e in of_job(events, job))


def _record_exit(run_dir: RunDir, job: str, ended: JobExit) -> JobExit:
    """Leave the end in the folder, where `swamp status` and the next driver read it."""
    if ended.code == ExitCode.INTERRUPTED:
        if not _cancelled(run_dir.read_events(), job):
            run_dir.append_event("cancelled", job=job, reason=ended.reason)
    elif ended.code != ExitCode.HELD:  # then the folder is another run's
        run_dir.append_event("failed", job=job, reason=ended.reason, code=int(ended.code))
    return ended


def _ask(backend: JobBackend, run_dir: RunDir, job: str) -> tuple[JobState | None, bool]:
    """What the scheduler says, and whether it answered: a controller that is restarted loses no job."""
    try:
        known = backend.follow([job]).get(job)
        return known if works_on(run_dir, known) else None, True
    except SchedulerError:
        return None, False


def _patiently(question: Callable[[], JobState | None]) -> JobState | None:
    """Ask until there is an answer: to submit without one could submit twice."""
    while True:
        with contextlib.suppress(SchedulerError):
            return question()
        time.sleep(ASK_SECONDS)
