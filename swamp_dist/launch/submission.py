"""A stage handed to SLURM: what its run folder must hold first, and which job works on it already."""

from __future__ import annotations

from collections.abc import Sequence

from swamp_dist.config import RayCluster, SlurmCluster, StageSettings
from swamp_dist.launch import cluster as slurm
from swamp_dist.launch import scheduler
from swamp_dist.launch.journal import Record, of_job
from swamp_dist.launch.provenance import source_patch, submission
from swamp_dist.launch.rundir import RunDir, RunDirHeld
from swamp_dist.launch.status import job_id
from swamp_dist.loading import dump
from swamp_dist.records import UserError


def write_submission(
    settings: StageSettings,
    cluster: RayCluster | SlurmCluster,
    run_dir: RunDir,
    shards_hash: str | None,
    command: Sequence[str],
) -> None:
    """Leave in the run folder what the job runs and what it was made from.

    Args:
        shards_hash: None where the shards are yet to be built.
        command: of the process that submits.
    """
    run_dir.write_stage(settings)
    facts = submission(settings, shards_hash, cluster.world_size, command)
    run_dir.write_submission(cluster, facts, source_patch())


def live_job(run_dir: RunDir) -> scheduler.Job | None:
    """The job that waits or runs for this folder; None where there is none.

    A submission whose process was killed before it could note the job's id is found by the job's comment
    and noted now.

    Raises:
        SchedulerError: the scheduler is not here or gives no answer.
    """
    events = run_dir.read_events()
    newest = job_id(events)
    if newest and failure(events, newest) is None:
        known = scheduler.jobs([newest]).get(newest)
        if known is not None and (known.waiting or known.running):
            return known
    for listed in scheduler.find(slurm.comment(run_dir)):
        if failure(events, listed) is None:  # else it only ends
            if listed != newest:
                run_dir.append_event("submitted", job=listed, found=True, **_dependency(events, listed))
            known = scheduler.jobs([listed]).get(listed)
            if known is not None:
                return known
    return None


def _dependency(events: Sequence[Record], job: str) -> Record:
    """What an earlier note of this submission says that it waits for."""
    own = (
        e for e in of_job(events, job) if e["event"] == "submitted" and e.get("job") == job and "after" in e
    )
    return next(({"after": e["after"]} for e in own), {})


def refuse_if_submitted(run_dir: RunDir) -> None:
    """Ask whether a job waits or runs for a folder that was ever submitted, before it is worked on here.

    Raises:
        RunDirHeld: one does; the message names it.
        UserError: the scheduler gives no answer.
    """
    if any(e["event"] == "submitted" for e in run_dir.read_events()):
        refuse_live_job(run_dir, "started")


def refuse_live_job(run_dir: RunDir, what: str) -> None:
    """Ask whether a job waits or runs for this folder, also one whose submission was never noted.

    Args:
        what: was not done where there is no answer: `submitted` or `started`.

    Raises:
        RunDirHeld: one does; the message names it.
        UserError: the scheduler gives no answer.
    """
    job = _answered(run_dir, what)
    if job is not None:
        raise RunDirHeld(
            f"run folder {run_dir.path} is held by SLURM job {job.job_id}, which is {job.state}.\n"
            f"It continues by itself. Watch it with `swamp status {run_dir.path}`, end it with "
            f"`swamp cancel {run_dir.path}` (after a plain scancel it may queue itself again), or choose "
            "another --run-dir."
        )


def refuse_other_settings(run_dir: RunDir, settings: StageSettings) -> None:
    """Ask whether a job waits or runs for this folder with other settings than these.

    It reads stage.yaml at each of its starts, so the file may not change under it.

    Raises:
        RunDirHeld: one does; the message names job and folder.
        UserError: the settings differ and the scheduler gives no answer.
    """
    if not run_dir.stage_yaml.is_file() or run_dir.stage_yaml.read_text() == dump(settings):
        return
    job = _answered(run_dir, "submitted")
    if job is not None:
        raise RunDirHeld(
            f"run folder {run_dir.path} is held by SLURM job {job.job_id}, which is {job.state}, with other "
            f"settings than were asked for: compare {run_dir.stage_yaml}.\n"
            f"Give the command it was submitted with, end it with `swamp cancel {run_dir.path}`, or choose "
            "another --run-dir."
        )


def _answered(run_dir: RunDir, what: str) -> scheduler.Job | None:
    """The live job of a folder; a silent scheduler is an error of the user's command."""
    try:
        return live_job(run_dir)
    except scheduler.SchedulerError as error:
        raise UserError(
            f"the scheduler gives no answer, so nothing was {what}: a job may still work on {run_dir.path}.\n"
            f"It says: {error}\n"
            "Fix: the same command where squeue answers, or another --run-dir."
        ) from None


def failure(events: Sequence[Record], job: str) -> Record | None:
    """The event with which a job said that it is not started again; None where it has not."""
    own = reversed(of_job(events, job))
    return next((e for e in own if e["event"] == "failed" and e.get("job") == job), None)
