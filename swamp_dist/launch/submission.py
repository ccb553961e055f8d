"""A stage handed to SLURM: what its run folder must hold first, and which job works on it already."""

from __future__ import annotations

from collections.abc import Sequence

from swamp_dist.config import RayCluster, SlurmCluster, StageSettings
from swamp_dist.launch import cluster as slurm
from swamp_dist.launch import scheduler
from swamp_dist.launch.journal import Record
from swamp_dist.launch.provenance import source_patch, submission
from swamp_dist.launch.rundir import RunDir
from swamp_dist.launch.status import job_id


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
    noted = [str(e["job"]) for e in events if e["event"] == "submitted" and e.get("job")]
    newest = job_id(events)
    if newest and failure(events, newest) is None:
        known = scheduler.jobs([newest]).get(newest)
        if known is not None and (known.waiting or known.running):
            return known
    for unnoted in scheduler.find(slurm.comment(run_dir)):
        if unnoted not in noted:
            run_dir.append_event("submitted", job=unnoted, found=True)
            return scheduler.jobs([unnoted]).get(unnoted)
    return None


def failure(events: Sequence[Record], job: str) -> Record | None:
    """The event with which a job said that it is not started again; None where it has not."""
    return next((e for e in reversed(events) if e["event"] == "failed" and e.get("job") == job), None)
