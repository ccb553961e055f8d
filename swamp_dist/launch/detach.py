"""A pipeline handed to SLURM as a whole: a job a stage, each waiting for those before it to end well.

A job that saves and requeues itself keeps its id and has not ended, so those after it wait on. One that
fails for good takes those after it out of the queue, and no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swamp_dist.config import PipelineSettings, SlurmCluster
from swamp_dist.data.manifest import MANIFEST_FILE, load_manifest
from swamp_dist.launch import cluster as slurm
from swamp_dist.launch import scheduler
from swamp_dist.launch.graph import note_build, write_graph
from swamp_dist.launch.pipeline import check_stages, refuse_changed
from swamp_dist.launch.plan import PlannedShards, PlannedStage, plan_pipeline
from swamp_dist.launch.rundir import RunDir
from swamp_dist.launch.scheduler import Job, SchedulerError
from swamp_dist.launch.shard_jobs import submit_build
from swamp_dist.launch.shards import build_shards
from swamp_dist.launch.submission import live_job, write_submission
from swamp_dist.records import UserError


@dataclass(frozen=True)
class Handed:
    """One stage or shard set, and the job that makes it."""

    key: str
    what: Literal["done", "submitted", "queued"]
    """`queued`: a job works on it already."""
    job: str = ""
    """Empty where it is done."""


def hand_over(
    settings: PipelineSettings, run_dir: Path, cluster: SlurmCluster, command: Sequence[str]
) -> list[Handed]:
    """Submit every stage and shard set that is neither done nor queued; the whole graph, in its order.

    Args:
        command: of the process that submits, for the record.

    Raises:
        UserError: something in the pipeline, a job or a recipe is wrong: then nothing was submitted; or
            the scheduler refuses a job or does not answer: the same command submits the rest.
        RunDirHeld: the pipeline is being run or handed over by another process, or a job runs a stage with
            other settings.
    """
    slurm.refuse_without_slurm()
    plan = plan_pipeline(settings, run_dir)
    with RunDir(run_dir).hold():
        refuse_changed(plan)
        check_stages(plan, cluster.world_size)
        write_graph(plan)
        shards = [_hand_shards(each, cluster, run_dir) for each in plan.shards]
        builds = {
            each.out.resolve(): handed.job
            for each, handed in zip(plan.shards, shards, strict=True)
            if handed.job
        }
        stages: dict[str, Handed] = {}
        for stage in plan.stages:
            stages[stage.key] = _hand_stage(stage, cluster, command, _waits_for(stage, stages, builds))
            write_graph(plan, {key: each.job for key, each in stages.items()})
    return [*shards, *stages.values()]


def _waits_for(stage: PlannedStage, handed: Mapping[str, Handed], builds: Mapping[Path, str]) -> list[str]:
    """Jobs that have to end well before a stage starts; what is done is not waited for."""
    build = builds.get(stage.settings.data.shards.resolve())
    before = [handed[key].job for key in stage.after if handed[key].job]
    return list(dict.fromkeys([*([build] if build else []), *before]))


def _hand_shards(shards: PlannedShards, cluster: SlurmCluster, run_dir: Path) -> Handed:
    key = f"shards {shards.out}"
    if (shards.out / MANIFEST_FILE).is_file():
        build_shards(shards.settings, shards.out)  # keeps it, or refuses that of another recipe
        return Handed(key, "done")
    jobs = submit_build(shards.settings, shards.out, cluster)
    if not jobs.found:  # else it may be another pipeline's, not ours to cancel
        note_build(run_dir, jobs.closing)
    return Handed(key, "queued" if jobs.found else "submitted", jobs.closing)


def _hand_stage(
    stage: PlannedStage, cluster: SlurmCluster, command: Sequence[str], after: Sequence[str]
) -> Handed:
    folder = RunDir(stage.run_dir)
    if folder.done:
        return Handed(stage.key, "done")
    try:
        live = live_job(folder)
        if live is not None and _keeps(live, folder, after):
            return Handed(stage.key, "queued", live.job_id)
        if live is not None:
            scheduler.cancel(live.job_id, now=False)
    except SchedulerError as error:
        raise UserError(
            f"the scheduler gives no answer, so {stage.key} was not submitted: {error}\n"
            "The same command submits what is neither done nor queued."
        ) from None
    folder.create()
    folder.refuse_if_held()
    data = stage.settings.data.shards
    shards_hash = load_manifest(data).hash if (data / MANIFEST_FILE).is_file() else None
    write_submission(stage.settings, cluster, folder, shards_hash, command)
    return Handed(stage.key, "submitted", slurm.submit(stage.settings.name, cluster, folder, after))


def _keeps(job: Job, folder: RunDir, after: Sequence[str]) -> bool:
    """Whether a live job is the right one: not if it waits for a job that failed or was replaced."""
    if job.running:
        return True
    noted = next(
        e for e in reversed(folder.read_events()) if e["event"] == "submitted" and e.get("job") == job.job_id
    )
    waits_for = noted.get("after")
    known = set(map(str, waits_for)) if isinstance(waits_for, list) else set()
    return set(after) <= known and job.reason != "DependencyNeverSatisfied"
