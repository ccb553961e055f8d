"""Which job works on a run folder, whatever the scheduler: noted in its events, or found by the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swamp_dist.backends.protocols import Backend, JobBackend, Report, SchedulerError, StageRef
from swamp_dist.backends.registry import scheduler_of
from swamp_dist.errors import ExitCode, UserError
from swamp_dist.records import JobState
from swamp_dist.runs.events import Record, job_id, of_job
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.lock import JobLives

if TYPE_CHECKING:
    from swamp_dist.stage.open import FindJob  # brings numpy, which the verbs that watch do without


def submit_stage(backend: JobBackend, stage: StageRef, after: Sequence[str] = ()) -> str:
    """Submit a stage and note its job in the run folder; the job's id. A refusal is noted too: else the run
    would look as if it waited.

    Raises:
        UserError: as `JobBackend.submit`.
    """
    try:
        job = backend.submit(stage, after)
    except UserError as error:
        said = " ".join(line.strip() for line in str(error).splitlines())
        stage.run_dir.append_event("failed", reason=said, code=int(ExitCode.USER_MISTAKE))
        raise
    waits_for = {"after": list(after)} if after else {}
    stage.run_dir.append_event(
        "submitted", job=job, ranks=backend.world_size, owner=owner(stage.run_dir), **waits_for
    )
    return job


def owner(run_dir: RunDir) -> str:
    """What a submission writes on its job: the folder that it works on."""
    return str(run_dir.path.resolve())


def works_on(run_dir: RunDir, known: JobState | None) -> bool:
    """Whether a job is one of this folder's. Schedulers use numbers again, and an id may be misread."""
    if known is None or known.owner is None:
        return known is not None
    noted = (e.get("owner") for e in run_dir.read_events() if e["event"] == "submitted")
    return known.owner in {owner(run_dir), *noted}  # noted: the folder may have moved or be seen otherwise


def live_job(backend: JobBackend, run_dir: RunDir, *, notes: bool = True) -> JobState | None:
    """The job that waits or runs for this folder; None where there is none.

    A submission whose process was killed before it could note the job's id is found by the scheduler and
    noted now, unless `notes` is false.

    Raises:
        SchedulerError: the scheduler is not here or gives no answer.
    """
    events = run_dir.read_events()
    newest = job_id(events)
    if newest and failure(events, newest) is None:
        known = backend.jobs([newest]).get(newest)
        if known is not None and known.phase != "ended" and works_on(run_dir, known):
            return known
    for listed in backend.find(run_dir):
        if failure(events, listed) is None:  # else it only ends
            if listed != newest and notes:
                run_dir.append_event("submitted", job=listed, found=True, **_dependency(events, listed))
            known = backend.jobs([listed]).get(listed)
            if known is not None:
                return known
    return None


def _dependency(events: Sequence[Record], job: str) -> Record:
    """What an earlier note of this submission says that it waits for."""
    own = (
        e for e in of_job(events, job) if e["event"] == "submitted" and e.get("job") == job and "after" in e
    )
    return next(({"after": e["after"]} for e in own), {})


def failure(events: Sequence[Record], job: str) -> Record | None:
    """The event with which a job said that it is not started again; None where it has not."""
    own = reversed(of_job(events, job))
    return next((e for e in own if e["event"] == "failed" and e.get("job") == job), None)


def job_lives(run_dir: RunDir, backend: JobBackend | None = None) -> JobLives:
    """For the lock of a folder: whether a job holds machines now; None where the scheduler does not answer.

    A job that waits works on nothing: its ranks have ended before it was put into the queue again.

    Args:
        backend: the scheduler to ask; None = the one that the folder was submitted to.
    """

    def lives(job: str) -> bool | None:
        try:
            known = (backend or scheduler_of(run_dir)).jobs([job]).get(job)
        except SchedulerError:
            return None
        return known is not None and known.phase == "running"

    return lives


def working_job(
    run_dir: RunDir, backend: Backend | None = None, *, notes: bool = True
) -> tuple[str, JobState] | None:
    """Name of the scheduler and job that waits or runs for a folder; None where there is none.

    The scheduler that the folder was submitted to is asked, and `backend` if it is one: there may be a job
    whose submission was never noted; `notes` as for `live_job`.

    Raises:
        SchedulerError: one of them gives no answer.
    """
    asked = [backend] if isinstance(backend, JobBackend) else []
    if any(e["event"] == "submitted" for e in run_dir.read_events()):
        noted = scheduler_of(run_dir)
        asked = [noted, *(each for each in asked if each.title != noted.title)]
    for each in asked:
        job = live_job(each, run_dir, notes=notes)
        if job is not None:
            return each.title, job
    return None


def look_for_job(backend: Backend, report: Report) -> FindJob:
    """As `job_finder`, for a command that changes nothing: notes no job, and tells of a silent scheduler."""

    def find(run_dir: RunDir) -> tuple[str, JobState] | None:
        try:
            return working_job(run_dir, backend, notes=False)
        except SchedulerError as error:
            report(f"not known whether a job works on {run_dir.path} already: {error}")
            return None

    return find


def job_finder(backend: Backend | None = None) -> FindJob:
    """The question of `open_run` whether a job works on a folder, before a stage goes to `backend`.

    None is this machine. A silent scheduler is an error of the user's command.
    """
    what = "submitted" if isinstance(backend, JobBackend) else "started"

    def find(run_dir: RunDir) -> tuple[str, JobState] | None:
        try:
            return working_job(run_dir, backend)
        except SchedulerError as error:
            there = run_dir.path.exists()
            raise UserError(
                f"the scheduler gives no answer, so nothing was {what}"
                + (f": a job may still work on {run_dir.path}.\n" if there else ".\n")
                + f"It says: {error}\n"
                "Fix: the same command once the scheduler answers, or "
                + ("another --run-dir." if there else "without a cluster, on this machine: swamp run JOB.")
            ) from None

    return find
