"""A stage of a pipeline as a SLURM job: submitted once, then followed to its end.

Its end is told by result.json, by the job's last word in events.jsonl and by the scheduler. Whoever
follows may be killed and follow again: the job goes on meanwhile and is found by its id.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from swamp_dist.config import SlurmCluster, StageSettings
from swamp_dist.launch import cluster as slurm
from swamp_dist.launch import scheduler
from swamp_dist.launch.journal import Record, of_job
from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.preflight import check_stage
from swamp_dist.launch.rundir import RunDir
from swamp_dist.launch.scheduler import Job, SchedulerError
from swamp_dist.launch.submission import failure, live_job, write_submission
from swamp_dist.loading import load
from swamp_dist.records import UserError

LOOK_SECONDS = 1.0
"""Between two looks into the run folder."""
ASK_SECONDS = 5.0
"""Between two questions to the scheduler, which many users share."""
_SEEN_ENDED = 2
"""Questions in a row that must tell of an end: the last words in the folder may take a moment to arrive."""
_SEEN_UNKNOWN = 6
"""Questions in a row in which the scheduler must not know the job."""


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    code: ExitCode
    """INTERRUPTED: a person cancelled it."""
    reason: str


@dataclass(frozen=True)
class SlurmRunner:
    """Runs the stage of a run folder as a job on a cluster; what a pipeline's task calls."""

    cluster: SlurmCluster
    environment: Mapping[str, str]
    """Variables of the process that started the pipeline: what `swamp submit` would give to the job."""
    command: tuple[str, ...]

    def __call__(self, stage_yaml: Path, run_dir: Path, ranks: int) -> int:
        """Submit the stage, or find the job that works on it, and wait for its end; the exit code."""
        del ranks  # the cluster's settings say how many
        folder = RunDir(run_dir)
        try:
            job = self._job(stage_yaml, folder)
        except UserError as error:
            folder.append_event("failed", reason=str(error), code=int(ExitCode.USER_MISTAKE))
            return ExitCode.USER_MISTAKE
        return ExitCode.DONE if job is None else follow(folder, job).code

    def _job(self, stage_yaml: Path, folder: RunDir) -> str | None:
        """The job that works on the stage, submitted now if there is none; None if the stage is done."""
        found = _patiently(lambda: live_job(folder))
        if found is not None:
            return found.job_id
        if folder.done:  # asked after the scheduler: the job of a killed driver may have ended just now
            return None
        settings = load(stage_yaml, StageSettings)
        manifest = check_stage(settings, folder, self.cluster.world_size)
        with _variables(self.environment):
            write_submission(settings, self.cluster, folder, manifest.hash, self.command)
            return slurm.submit(settings.name, self.cluster, folder)


def follow(run_dir: RunDir, job: str, told_by: Callable[[], Ended | None] | None = None) -> Ended:
    """Wait until a job has ended for good, over all its starts; an end that it could not tell is noted.

    Args:
        told_by: the end as the files tell it; `told_by_folder`, if None.
    """
    told_by = told_by or partial(told_by_folder, run_dir, job)
    in_a_row, next_question = 0, time.monotonic()
    while True:
        told = told_by()
        if told is not None:
            return told
        if time.monotonic() >= next_question:
            next_question = time.monotonic() + ASK_SECONDS
            known, answered = _ask(job)
            ended = told_by_scheduler(job, known, run_dir.read_events()) if answered else None
            in_a_row = in_a_row + 1 if ended is not None else 0
            if ended is not None and in_a_row >= (_SEEN_ENDED if known else _SEEN_UNKNOWN):
                return told_by() or _noted(run_dir, job, ended)
        time.sleep(LOOK_SECONDS)


def told_by_folder(run_dir: RunDir, job: str) -> Ended | None:
    """The end of a job as its run folder tells it; None where it does not."""
    if run_dir.done:
        return Ended(ExitCode.DONE, "done")
    last = failure(run_dir.read_events(), job)
    if last is None:
        return None
    code = next((c for c in ExitCode if c == last.get("code")), ExitCode.FAILED)
    return Ended(code, str(last.get("reason")))


def told_by_scheduler(job: str, known: Job | None, events: Sequence[Record]) -> Ended | None:
    """The end of a job that left neither result nor last word, as the scheduler tells it. Pure.

    Args:
        known: what the scheduler says; None where it does not know the job.
    """
    cancelled = _cancelled(events, job)
    if known is not None and (known.waiting or known.running):
        return None
    if cancelled or (known is not None and known.state.startswith("CANCELLED")):
        return Ended(ExitCode.INTERRUPTED, f"job {job} was cancelled; the same command submits it again")
    if known is None:
        return Ended(ExitCode.FAILED, f"job {job} is unknown to the scheduler and left no result")
    if known.code == ExitCode.HELD:
        return Ended(ExitCode.HELD, f"job {job} found its run folder held by another run")
    if known.code == ExitCode.USER_MISTAKE:
        return Ended(ExitCode.USER_MISTAKE, f"job {job} refused its settings or data")
    why = f" ({known.reason})" if known.reason else ""
    return Ended(ExitCode.FAILED, f"job {job} ended as {known.state}{why} without a result")


def _cancelled(events: Sequence[Record], job: str) -> bool:
    return any(e["event"] == "cancelled" and e.get("job") == job for e in of_job(events, job))


def _noted(run_dir: RunDir, job: str, ended: Ended) -> Ended:
    """Leave the end in the folder, where `swamp status` and the next driver read it."""
    if ended.code == ExitCode.INTERRUPTED:
        if not _cancelled(run_dir.read_events(), job):
            run_dir.append_event("cancelled", job=job, reason=ended.reason)
    elif ended.code != ExitCode.HELD:  # then the folder is another run's
        run_dir.append_event("failed", job=job, reason=ended.reason, code=int(ended.code))
    return ended


def _ask(job: str) -> tuple[Job | None, bool]:
    """What the scheduler says, and whether it answered: a controller that is restarted loses no job."""
    try:
        return scheduler.jobs([job]).get(job), True
    except SchedulerError:
        return None, False


def _patiently(question: Callable[[], Job | None]) -> Job | None:
    """Ask until there is an answer: to submit without one could submit twice.

    Raises:
        UserError: there are no SLURM commands here.
    """
    slurm.refuse_without_slurm()
    while True:
        with contextlib.suppress(SchedulerError):
            return question()
        time.sleep(ASK_SECONDS)


@contextlib.contextmanager
def _variables(wanted: Mapping[str, str]) -> Iterator[None]:
    """This process's environment replaced inside the block: sbatch passes it on, and jobs are not Ray's."""
    own = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(wanted)
        yield
    finally:
        os.environ.clear()
        os.environ.update(own)
