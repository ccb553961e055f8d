"""A pipeline handed to a scheduler as a whole: one job per stage, each after those before it.

A job that saves and requeues itself keeps its id and has not ended, so those after it wait on. One that
fails for good takes those after it out of the queue, and no others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swamp_dist.backends.jobs import job_finder, job_lives, live_job, submit_stage
from swamp_dist.backends.protocols import BuildBackend, JobBackend, SchedulerError, StageRef
from swamp_dist.backends.registry import open_backend
from swamp_dist.config import ClusterSettings, PipelineSettings
from swamp_dist.costs.memory import room_on
from swamp_dist.data.manifest import MANIFEST_FILE, load_manifest
from swamp_dist.errors import UserError
from swamp_dist.pipelines.advice import pipeline_warnings
from swamp_dist.pipelines.plan import PlannedShards, PlannedStage, plan_pipeline
from swamp_dist.pipelines.raw_data import check_raw_data
from swamp_dist.pipelines.stage_checks import check_folders, check_stages
from swamp_dist.prepare.build import build_shards
from swamp_dist.prepare.jobs import submit_build
from swamp_dist.records import JobState
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.graph import note_build, write_graph
from swamp_dist.runs.provenance import write_submission

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubmittedStage:
    """One stage or shard set, and the job that makes it."""

    key: str
    what: Literal["done", "submitted", "queued"]
    """`queued`: a job works on it already."""
    job: str = ""
    """Empty where it is done."""


def hand_over(
    settings: PipelineSettings, run_dir: Path, cluster: ClusterSettings, command: Sequence[str]
) -> list[SubmittedStage]:
    """Submit every stage and shard set that is neither done nor queued; the whole graph, in its order.

    Args:
        command: of the process that submits, for the record.

    Raises:
        UserError: something in the pipeline, a job or a recipe is wrong: then nothing was submitted; or
            the scheduler refuses a job or does not answer: the same command submits the rest.
        RunDirHeld: the pipeline is being run or handed over by another process, or a job runs a stage with
            other settings.
    """
    backend = open_backend(cluster)
    if not isinstance(backend, JobBackend):
        raise UserError(f"backend = {cluster.backend} keeps no jobs: a graph is handed to a scheduler")
    backend.check()
    plan, folder = plan_pipeline(settings, run_dir), RunDir(run_dir)
    with folder.hold(job_lives(folder)):
        check_folders(plan, job_finder(backend), follows=True)
        check_raw_data(plan)
        check_stages(plan, backend.world_size, room_on(cluster))
        for text in pipeline_warnings(plan):
            logger.warning(text)
        folder.write_cluster(cluster)
        write_graph(plan.run_dir, plan.nodes)
        shards = [_hand_shards(each, backend, run_dir) for each in plan.shards]
        builds = {
            each.out.resolve(): handed.job
            for each, handed in zip(plan.shards, shards, strict=True)
            if handed.job
        }
        stages: dict[str, SubmittedStage] = {}
        for stage in plan.stages:
            stages[stage.key] = _hand_stage(
                stage, cluster, backend, command, _waits_for(stage, stages, builds)
            )
            write_graph(plan.run_dir, plan.nodes, {key: each.job for key, each in stages.items()})
    return [*shards, *stages.values()]


def _waits_for(
    stage: PlannedStage, handed: Mapping[str, SubmittedStage], builds: Mapping[Path, str]
) -> list[str]:
    """Jobs that have to end well before a stage starts; what is done is not waited for."""
    folders = [folder.resolve() for folder in stage.settings.shard_sets]
    built = [builds[folder] for folder in folders if folder in builds]
    before = [handed[key].job for key in stage.after if handed[key].job]
    return list(dict.fromkeys([*built, *before]))


def _hand_shards(shards: PlannedShards, backend: JobBackend, run_dir: Path) -> SubmittedStage:
    key = f"shards {shards.out}"
    if (shards.out / MANIFEST_FILE).is_file():
        build_shards(shards.settings, shards.out)  # keeps it, or refuses that of another recipe
        return SubmittedStage(key, "done")
    if not isinstance(backend, BuildBackend):
        raise UserError(
            f"{shards.out} is not built, and {backend.title} jobs cannot build it here.\n"
            f"Fix: swamp shards build {shards.recipe} --out {shards.out}"
        )
    jobs = submit_build(shards.settings, shards.out, backend)
    if not jobs.found:  # else it may be another pipeline's, not ours to cancel
        note_build(run_dir, jobs.closing)
    return SubmittedStage(key, "queued" if jobs.found else "submitted", jobs.closing)


def _hand_stage(
    stage: PlannedStage,
    cluster: ClusterSettings,
    backend: JobBackend,
    command: Sequence[str],
    after: Sequence[str],
) -> SubmittedStage:
    folder = RunDir(stage.run_dir)
    if folder.done:
        return SubmittedStage(stage.key, "done")
    try:
        live = live_job(backend, folder)
        if live is not None and _keeps(live, folder, after):
            return SubmittedStage(stage.key, "queued", live.id)
        if live is not None:
            backend.cancel(live.id, now=False)
    except SchedulerError as error:
        raise UserError(
            f"the scheduler gives no answer, so {stage.key} was not submitted: {error}\n"
            "The same command submits what is neither done nor queued."
        ) from None
    folder.create()
    folder.refuse_if_held(job_lives(folder, backend))
    built = [data for data in stage.settings.shard_sets if (data / MANIFEST_FILE).is_file()]
    hashes = {data: load_manifest(data).hash for data in built}
    drawn = stage.settings.data.blend or {}
    blend_hashes = {name: hashes[each.shards] for name, each in drawn.items() if each.shards in hashes}
    shards_hash = hashes.get(stage.settings.data.shards)
    write_submission(stage.settings, cluster, folder, shards_hash, command, blend_hashes)
    job = submit_stage(backend, StageRef(stage.settings.name, folder), after)
    return SubmittedStage(stage.key, "submitted", job)


def _keeps(job: JobState, folder: RunDir, after: Sequence[str]) -> bool:
    """Whether a live job is the right one: not if it waits for a job that failed or was replaced."""
    if job.phase == "running":
        return True
    noted = next(
        e for e in reversed(folder.read_events()) if e["event"] == "submitted" and e.get("job") == job.id
    )
    waits_for = noted.get("after")
    known = set(map(str, waits_for)) if isinstance(waits_for, list) else set()
    return set(after) <= known and not job.stuck
