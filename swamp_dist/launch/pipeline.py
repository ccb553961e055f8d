"""Runs a planned pipeline: Ray holds the graph, `local` or SLURM owns the processes.

One Ray task a stage; its dependencies are the references of the stages before it. A task starts a child
process, or submits a job, and waits, so Ray needs little memory, and the stage sees the same environment
as with `swamp run` and `swamp submit`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from swamp_dist.config import LocalCluster, PipelineSettings, ShardSettings, SlurmCluster
from swamp_dist.launch import cluster as slurm
from swamp_dist.launch.console import Report, StageStatus, is_submitted, look
from swamp_dist.launch.graph import note_build, write_graph
from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.plan import Plan, PlannedStage, plan_pipeline, run_dirs_before
from swamp_dist.launch.preflight import check_stage
from swamp_dist.launch.ray_graph import STAGE_SLOT, own_ray
from swamp_dist.launch.rundir import RunDir
from swamp_dist.launch.shard_jobs import build_by_jobs
from swamp_dist.launch.slurm_stage import SlurmRunner
from swamp_dist.launch.stage_task import Ending, Order, Runner, run_in_child, stage_environment, stage_task
from swamp_dist.launch.status import job_id
from swamp_dist.launch.submission import refuse_if_submitted, refuse_other_settings
from swamp_dist.records import UserError

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


def run_pipeline(
    settings: PipelineSettings,
    run_dir: Path,
    report: Report,
    *,
    cluster: LocalCluster | SlurmCluster | None = None,
    runner: Runner | None = None,
    build: Build | None = None,
) -> list[StageStatus]:
    """Build missing shards, run every stage that has no result yet, and say how each ended.

    A stage that fails blocks those after it while others go on. Safe to kill and run again: done stages
    are skipped, a half-done one continues from its last commit, and a job in the queue is followed.

    Args:
        cluster: where the stages run; None = this machine with the pipeline's `ranks`.

    Raises:
        UserError: something in the pipeline, a job or a recipe is wrong; no stage has been started.
        RunDirHeld: the same pipeline runs already in this folder, or a stage is a job in the queue and
            was to run here, or runs with other settings.
    """
    plan = plan_pipeline(settings, run_dir)
    site = _site(settings, cluster, runner)
    with RunDir(run_dir).hold():
        if isinstance(cluster, SlurmCluster):
            refuse_changed(plan)
        else:
            refuse_submitted(plan)
        write_graph(plan)
        if build is None and isinstance(cluster, SlurmCluster):
            wanted = [(each.settings, each.out) for each in plan.shards]
            build_by_jobs(wanted, cluster, partial(note_build, run_dir))
        else:
            _build_missing(plan, build or _build_shards)
        if runner is None:
            check_stages(plan, site.ranks)
        for stage in plan.stages:
            if not RunDir(stage.run_dir).done:
                RunDir(stage.run_dir).write_stage(stage.settings)
        statuses = {s.key: _initial(s) for s in plan.stages}
        if any(s.state == "waiting" for s in statuses.values()):
            with own_ray(site.slots) as ray:
                _drive(ray, settings.retries, site, plan, statuses, report)
        report(list(statuses.values()))
    return list(statuses.values())


def check_stages(plan: Plan, ranks: int) -> None:
    """Check every stage that is not done as far as its shards are there and the weights it starts from.

    Raises:
        UserError: all problems of all stages in one message.
    """
    problems = list(dict.fromkeys(_problems(plan, ranks)))
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems[:10])
        raise UserError(f"the pipeline in {plan.run_dir} cannot go on:\n{listed}")


def _problems(plan: Plan, ranks: int) -> Iterator[str]:
    by_key = {stage.key: stage for stage in plan.stages}
    for stage in plan.stages:
        folder = RunDir(stage.run_dir)
        if folder.done or not (stage.settings.data.shards / "manifest.json").is_file():
            continue
        promised = [d for d in run_dirs_before(stage, by_key) if not RunDir(d).done]
        try:
            check_stage(stage.settings, folder, ranks, promised)
        except UserError as error:
            yield f"{stage.key}: {error}"


def refuse_submitted(plan: Plan) -> None:
    """Ask whether a stage that is to run here is a job that waits or runs.

    Raises:
        RunDirHeld: one is; the message names it.
        UserError: one was submitted and the scheduler gives no answer.
    """
    for stage in plan.stages:
        if not RunDir(stage.run_dir).done:
            refuse_if_submitted(RunDir(stage.run_dir))


def refuse_changed(plan: Plan) -> None:
    """Ask whether a job waits or runs for a stage with other settings than planned.

    Raises:
        RunDirHeld: one does; the message names it.
        UserError: the scheduler had to be asked and gives no answer.
    """
    for stage in plan.stages:
        if not RunDir(stage.run_dir).done:
            refuse_other_settings(RunDir(stage.run_dir), stage.settings)


def _build_shards(settings: ShardSettings, out: Path) -> None:
    from swamp_dist.launch.shards import build_shards

    build_shards(settings, out)


def _build_missing(plan: Plan, build: Build) -> None:
    """Building is repeatable: a set that is there is kept, and refused if another recipe made it."""
    for shards in plan.shards:
        if not (shards.out / "manifest.json").is_file():
            logger.info("building shards %s from %s", shards.out, shards.recipe)
        build(shards.settings, shards.out)


def _site(
    settings: PipelineSettings, cluster: LocalCluster | SlurmCluster | None, runner: Runner | None
) -> _Site:
    if isinstance(cluster, SlurmCluster):
        slurm.refuse_without_slurm()
        submits = runner or SlurmRunner(cluster, dict(os.environ), tuple(sys.argv))
        return _Site(submits, cluster.world_size, cluster.max_jobs, _WAITERS_LOST, {})
    ranks = settings.ranks if cluster is None else cluster.ranks
    environment = stage_environment(ranks * settings.concurrency)
    return _Site(runner or run_in_child, ranks, settings.concurrency, settings.retries, environment)


# -- the graph -------------------------------------------------------------------------------------


def _drive(
    ray: Any, retries: int, site: _Site, plan: Plan, statuses: dict[str, StageStatus], report: Report
) -> None:
    """Hand all stages to Ray and follow them; updates `statuses` in place."""
    began = time.time()
    since = {s.key: 0.0 if is_submitted(RunDir(s.run_dir)) else began for s in plan.stages}
    keys = {reference: key for key, reference in _handed(ray, retries, site, plan, statuses).items()}
    pending = list(keys)
    while pending:
        ended, pending = ray.wait(pending, num_returns=1, timeout=_LOOK_SECONDS)
        for reference in ended:
            statuses[keys[reference]] = _outcome(ray, reference, statuses[keys[reference]])
        for key in (keys[reference] for reference in pending):
            statuses[key] = look(statuses[key], since[key])
        report(list(statuses.values()))


def _handed(
    ray: Any, retries: int, site: _Site, plan: Plan, statuses: dict[str, StageStatus]
) -> dict[str, Any]:
    """References of the tasks by stage; a task starts when those that it is given have ended."""
    task = ray.remote(num_cpus=0, resources={STAGE_SLOT: 1}, max_retries=site.worker_retries)(stage_task)
    references: dict[str, Any] = {}
    for stage in plan.stages:
        if statuses[stage.key].state == "done":
            continue
        folder = RunDir(stage.run_dir)
        order = Order(
            stage.key,
            str(folder.stage_yaml),
            str(folder.path),
            site.ranks,
            retries,
            os.getcwd(),
            site.environment,
        )
        before = [references[key] for key in stage.after if key in references]
        references[stage.key] = task.options(name=stage.key).remote(order, site.runner, *before)
    return references


# -- what became of a stage ------------------------------------------------------------------------


def _initial(stage: PlannedStage) -> StageStatus:
    folder = RunDir(stage.run_dir)
    return StageStatus(stage.key, stage.run_dir, "done" if folder.done else "waiting")


def _outcome(ray: Any, reference: Any, status: StageStatus) -> StageStatus:
    try:
        ending: Ending = ray.get(reference)
    except ray.exceptions.RayError as error:
        return replace(status, state="failed", message=f"its worker was lost: {error}")
    if ending.blocked_by is not None:
        return replace(
            status, state="blocked", message=f"not started because {ending.blocked_by} is not done"
        )
    if ending.code is None or not ending.done:
        return replace(status, state="failed", message=_reason(ending.code, RunDir(status.run_dir)))
    return replace(status, state="done")


def _reason(code: int | None, folder: RunDir) -> str:
    meanings: dict[int | None, str] = {
        ExitCode.USER_MISTAKE: "refused its settings or data",
        ExitCode.HELD: "found its run folder held by another run",
        ExitCode.REQUEUE: "was asked to stop; its progress is saved",
        ExitCode.INTERRUPTED: "was cancelled; the same command continues it",
    }
    events = folder.read_events()
    meaning = meanings.get(code, f"failed with exit code {code}")
    job, last = job_id(events), events[-1] if events else {}
    if job or last.get("code") == ExitCode.USER_MISTAKE:  # a job's last word, or why it was not submitted
        meaning = (
            str(last.get("reason") or meaning) if last.get("event") in ("failed", "cancelled") else meaning
        )
    log = folder.slurm_log(job) if job else folder.console_log
    return f"{meaning}; see {log}{_quoted(log)}"


def _quoted(log: Path) -> str:
    lines: Sequence[str] = log.read_text(errors="replace").splitlines()[-12:] if log.is_file() else []
    return "".join(f"\n  | {line}" for line in lines)
