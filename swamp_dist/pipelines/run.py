"""Runs a planned pipeline: Ray holds the graph, `local` or SLURM owns the processes.

One Ray task per stage; its dependencies are the references of the stages before it. A task starts a child
process, or submits a job, and waits, so Ray needs little memory, and the stage sees the same environment
as with `swamp run` and `swamp submit`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from swamp_dist.backends.follow import JobRunner
from swamp_dist.backends.jobs import job_finder, job_lives
from swamp_dist.backends.protocols import BuildBackend, JobBackend
from swamp_dist.backends.ray.session import STAGE_SLOT, graph_session
from swamp_dist.backends.registry import open_backend
from swamp_dist.config import ClusterSettings, PipelineSettings, ShardSettings
from swamp_dist.costs.memory import room_here, room_on
from swamp_dist.errors import ExitCode
from swamp_dist.file_names import MANIFEST_FILE
from swamp_dist.monitor.status import RunStatus, look
from swamp_dist.pipelines.advice import pipeline_warnings
from swamp_dist.pipelines.live_view import Report, pending_status
from swamp_dist.pipelines.plan import PipelinePlan, PlannedStage, plan_pipeline
from swamp_dist.pipelines.raw_data import check_raw_data
from swamp_dist.pipelines.stage_checks import check_folders, check_stages
from swamp_dist.pipelines.task import (
    Runner,
    StageExit,
    StageSpec,
    forking,
    run_in_child,
    stage_environment,
    stage_task,
)
from swamp_dist.prepare.jobs import build_by_jobs
from swamp_dist.progress import WorkProgress
from swamp_dist.runs.events import job_id, reason_line
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.graph import note_build, write_graph

logger = logging.getLogger(__name__)
Build = Callable[[ShardSettings, Path], object]
"""(recipe, folder): makes a shard set, or keeps the one that is there."""
_LOOK_SECONDS = 1.0
_WAITERS_LOST = 10
"""How often a Ray worker may be lost that only followed a job: it follows again."""


@dataclass(frozen=True)
class _Site:
    """Where the stages of a pipeline run, and how many at a time."""

    runner: Runner
    ranks: int
    slots: int
    """Stages that may run, or be queued, at the same time."""
    worker_retries: int
    """How often a stage whose Ray worker was lost is taken up by another one."""
    environment: dict[str, str | None]


@dataclass(frozen=True)
class StageEnd:
    """What became of one stage of a pipeline."""

    key: str
    run_dir: Path
    state: Literal["done", "failed", "blocked"]
    message: str = ""
    """Why it failed or was not started, with the path of its log."""


def run_pipeline(
    settings: PipelineSettings,
    run_dir: Path,
    report: Report,
    *,
    cluster: ClusterSettings | None = None,
    runner: Runner | None = None,
    build: Build | None = None,
) -> list[StageEnd]:
    """Build missing shards, run every stage that has no result yet, and say how each ended.

    A stage that fails blocks those after it while others go on. Safe to kill and run again: done stages
    are skipped, a half-done one continues from its last commit, and a job in the queue is followed.

    Args:
        cluster: where the stages run: this machine or a scheduler; None = here with the pipeline's `ranks`.

    Raises:
        UserError: something in the pipeline, a job or a recipe is wrong; no stage has been started.
        RunDirHeld: the same pipeline runs already in this folder, or a stage is a job in the queue and
            was to run here, or runs with other settings.
    """
    plan = plan_pipeline(settings, run_dir)
    site = _site(settings, cluster, runner)
    folder, backend = RunDir(run_dir), open_backend(cluster) if cluster is not None else None
    with folder.hold(job_lives(folder)):
        check_folders(plan, job_finder(backend), follows=isinstance(backend, JobBackend))
        if cluster is not None and isinstance(backend, JobBackend):
            folder.write_cluster(cluster)
        write_graph(plan.run_dir, plan.nodes, shards=[each.out for each in plan.shards])
        check_raw_data(plan)
        if build is None and isinstance(backend, BuildBackend):
            wanted = [(each.settings, each.out) for each in plan.shards]
            build_by_jobs(wanted, backend, partial(note_build, run_dir))
        else:
            _build_missing(plan, build or _build_shards)
        if runner is None:
            room = room_here(site.ranks) if cluster is None else room_on(cluster)
            check_stages(plan, site.ranks, room)
        for text in pipeline_warnings(plan):
            logger.warning(text)
        for stage in plan.stages:
            if not RunDir(stage.run_dir).done:
                RunDir(stage.run_dir).write_stage(stage.settings)
        # What was no task has its result: from before, or from an earlier driver's job while Ray started.
        ends = {stage.key: StageEnd(stage.key, stage.run_dir, "done") for stage in plan.stages}
        left = sum(not RunDir(stage.run_dir).done for stage in plan.stages)
        if left:
            with forking(site.runner, site.environment, left) as run, graph_session(site.slots) as ray:
                ends |= _drive(ray, settings.retries, replace(site, runner=run), plan, report)
        report([_ended_status(stage, ends[stage.key]) for stage in plan.stages])
    return [ends[stage.key] for stage in plan.stages]


def _build_shards(settings: ShardSettings, out: Path) -> None:
    from swamp_dist.prepare.build import build_shards

    with WorkProgress(settings.name, "{done} of {total} shards", line_seconds=5.0) as progress:
        build_shards(settings, out, report=progress.show)


def _build_missing(plan: PipelinePlan, build: Build) -> None:
    """Building is repeatable: a set that is there is kept, and refused if another recipe made it."""
    for shards in plan.shards:
        if not (shards.out / MANIFEST_FILE).is_file():
            logger.info("building shards %s from %s", shards.out, shards.recipe)
        build(shards.settings, shards.out)


def _site(settings: PipelineSettings, cluster: ClusterSettings | None, runner: Runner | None) -> _Site:
    backend = None if cluster is None else open_backend(cluster)
    if cluster is not None and isinstance(backend, JobBackend):
        backend.check()
        submits = runner or JobRunner(cluster, dict(os.environ), tuple(sys.argv))
        return _Site(submits, cluster.world_size, backend.max_jobs, _WAITERS_LOST, {})
    ranks = settings.ranks if cluster is None else cluster.world_size
    environment = stage_environment(ranks * settings.concurrency)
    return _Site(runner or run_in_child, ranks, settings.concurrency, settings.retries, environment)


# -- the graph -------------------------------------------------------------------------------------


def _drive(ray: Any, retries: int, site: _Site, plan: PipelinePlan, report: Report) -> dict[str, StageEnd]:
    """Hand all stages that are not done to Ray and follow them to their ends."""
    began = time.time()
    shown = {stage.key: pending_status(stage, began) for stage in plan.stages}
    stages = {stage.key: stage for stage in plan.stages}
    tasks = {reference: stages[key] for key, reference in _submit_tasks(ray, retries, site, plan).items()}
    pending, ends = list(tasks), {}
    while pending:
        ended, pending = ray.wait(pending, num_returns=1, timeout=_LOOK_SECONDS)
        for reference in ended:
            stage = tasks[reference]
            ends[stage.key] = _stage_end(ray, reference, stage)
            shown[stage.key] = _ended_status(stage, ends[stage.key])
        for stage in (tasks[reference] for reference in pending):
            shown[stage.key] = pending_status(stage, began)
        report(list(shown.values()))
    return ends


def _submit_tasks(ray: Any, retries: int, site: _Site, plan: PipelinePlan) -> dict[str, Any]:
    """References of the tasks by stage; a task starts when those that it is given have ended."""
    task = ray.remote(num_cpus=0, resources={STAGE_SLOT: 1}, max_retries=site.worker_retries)(stage_task)
    references: dict[str, Any] = {}
    for stage in plan.stages:
        folder = RunDir(stage.run_dir)
        if folder.done:
            continue
        spec = StageSpec(
            stage.key,
            str(folder.stage_yaml),
            str(folder.path),
            site.ranks,
            retries,
            os.getcwd(),
            site.environment,
        )
        before = [references[key] for key in stage.after if key in references]
        references[stage.key] = task.options(name=stage.key).remote(spec, site.runner, *before)
    return references


# -- what became of a stage ------------------------------------------------------------------------


def _stage_end(ray: Any, reference: Any, stage: PlannedStage) -> StageEnd:
    end = partial(StageEnd, stage.key, stage.run_dir)
    try:
        ending: StageExit = ray.get(reference)
    except ray.exceptions.RayError as error:
        return end("failed", f"its worker was lost: {error}")
    if ending.blocked_by is not None:
        return end("blocked", f"not started because {ending.blocked_by} is not done")
    if ending.code is None or not ending.done:
        return end("failed", _reason(ending.code, RunDir(stage.run_dir)))
    return end("done")


def _ended_status(stage: PlannedStage, end: StageEnd) -> RunStatus:
    """As the folder tells it, but for the end, which this pipeline knows."""
    status = look(RunDir(stage.run_dir), key=stage.key, after=stage.after)
    return replace(status, state=end.state, reason=reason_line(end.message), seconds_left=None)


def _reason(code: int | None, folder: RunDir) -> str:
    meanings: dict[int | None, str] = {
        ExitCode.USER_MISTAKE: "refused its settings or data",
        ExitCode.HELD: "found its run folder held by another run",
        ExitCode.REQUEUE: "was asked to stop; its progress is saved",
        ExitCode.INTERRUPTED: "was cancelled; the same command continues it",
    }
    meaning = meanings.get(code, f"failed with exit code {code}")
    events = folder.read_events()
    job, last = job_id(events), events[-1] if events else {}
    said = str(last.get("reason") or "") if last.get("event") in ("failed", "cancelled") else ""
    if said and code == ExitCode.USER_MISTAKE and last.get("code") == code and "job" not in last:
        return said  # it was not submitted: there is no log
    log = folder.job_log(job) if job else folder.console_log
    if said and code == ExitCode.USER_MISTAKE:  # the ranks' own words, fix included: the log says no more
        return f"{said}\nIts log: {log}" if log.is_file() and "Its log: " not in said else said
    meaning = said if said and job else meaning
    return f"{meaning}; see {log}{_quote(log)}" if log.is_file() else f"{meaning}; it left no log"


def _quote(log: Path) -> str:
    lines: Sequence[str] = log.read_text(errors="replace").splitlines()[-12:] if log.is_file() else []
    return "".join(f"\n  | {line}" for line in lines)
