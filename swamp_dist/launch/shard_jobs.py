"""A shard set built by SLURM jobs: an array of parts, and a job that closes the set after them.

Restartable at every point: finished shards are kept, a part builds only what is missing, and the closing
job builds what a lost part left over. What was submitted is noted beside the set, in NAME.jobs/.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from swamp_dist.config import ShardSettings, SlurmCluster
from swamp_dist.data.manifest import MANIFEST_FILE
from swamp_dist.launch import cluster as slurm
from swamp_dist.launch import scheduler
from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.rundir import RunDir, write_atomically
from swamp_dist.launch.scheduler import SchedulerError
from swamp_dist.launch.shards import build_shards
from swamp_dist.launch.slurm_stage import Ended, follow
from swamp_dist.launch.submission import live_job
from swamp_dist.loading import dump
from swamp_dist.records import UserError


@dataclass(frozen=True)
class BuildJobs:
    """The jobs that build a shard set."""

    closing: str
    """The job whose end well means that the set is there."""
    parts: str | None
    """The array before it; None where the closing job builds everything, or was found in the queue."""
    found: bool
    """They wait or run already; nothing was submitted."""
    folder: RunDir
    """Where their logs are."""


def build_folder(out: Path) -> RunDir:
    """Where the jobs of a shard set are noted, with their logs."""
    return RunDir(out.with_name(f"{out.name}.jobs"))


def submit_build(settings: ShardSettings, out: Path, cluster: SlurmCluster, parts: int = 1) -> BuildJobs:
    """Submit the build of a shard set, or find the jobs that work on it.

    Args:
        parts: jobs that build side by side, each with `cpus_per_task` child processes; 1 = one job.

    Raises:
        UserError: there is no SLURM here, it refuses a job or does not answer.
    """
    slurm.refuse_without_slurm()
    folder = build_folder(out)
    folder.create()
    with folder.hold():
        live = _live(folder)
        if live is not None:
            return BuildJobs(live, None, True, folder)
        write_atomically(recipe_file(folder), dump(settings))
        array = _submit_parts(settings, out, cluster, parts, folder) if parts > 1 else None
        after = [array] if array is not None else []
        parameters = slurm.with_dependency(_parameters(settings.name, cluster, folder), "afterany", after)
        closing = slurm.send(_command(folder, out, cluster), parameters, folder)
        folder.append_event("submitted", job=closing, after=after)
    return BuildJobs(closing, array, False, folder)


def build_by_jobs(
    wanted: Sequence[tuple[ShardSettings, Path]], cluster: SlurmCluster, note: Callable[[str], None]
) -> None:
    """Build the sets that are absent by jobs, all at a time, and wait for their ends.

    Args:
        note: told the closing job of each set that was submitted here, not of one found in the queue.

    Raises:
        UserError: as `submit_build`; a set that is there has another recipe; a job ended without its set.
    """
    absent = []
    for settings, out in wanted:
        if (out / MANIFEST_FILE).is_file():
            build_shards(settings, out)  # keeps it, or refuses that of another recipe
        else:
            jobs = submit_build(settings, out, cluster)
            if not jobs.found:
                note(jobs.closing)
            absent.append((out, jobs))
    for out, jobs in absent:
        ended = follow(jobs.folder, jobs.closing, partial(_told_by_set, out))
        if ended.code != ExitCode.DONE:
            raise UserError(
                f"the shard set {out} was not built: {ended.reason}; see {jobs.folder.slurm_log(jobs.closing)}"
            )


def _told_by_set(out: Path) -> Ended | None:
    return Ended(ExitCode.DONE, "done") if (out / MANIFEST_FILE).is_file() else None


def recipe_file(folder: RunDir) -> Path:
    """The recipe as resolved, which the jobs read."""
    return folder.path / "recipe.yaml"


def _live(folder: RunDir) -> str | None:
    """The closing job that waits or runs. The array is not asked for: it carries another comment."""
    try:
        job = live_job(folder)
    except SchedulerError as error:
        raise UserError(f"the scheduler gives no answer, so nothing was submitted: {error}") from None
    return None if job is None else job.job_id


def _submit_parts(
    settings: ShardSettings, out: Path, cluster: SlurmCluster, parts: int, folder: RunDir
) -> str:
    parameters = _parameters(f"{settings.name}-parts", cluster, folder)
    side_by_side = min(parts, cluster.max_jobs)
    more = {
        "array": f"0-{parts - 1}%{side_by_side}",
        "output": str(folder.slurm_logs.resolve() / "%A_%a_0_log.out"),
    }
    parameters["additional_parameters"] |= more
    parameters["comment"] += " parts"
    live = scheduler.find(str(parameters["comment"]))
    if live:  # of a submission that was killed before it came to the closing job
        return live[0].partition("_")[0]
    return slurm.send(_command(folder, out, cluster, parts), parameters, folder)


def _parameters(name: str, cluster: SlurmCluster, folder: RunDir) -> dict[str, Any]:
    """One task on one node, without GPUs, that may be killed at any moment and started again."""
    return slurm.job_parameters(f"{name}-shards", cluster, folder) | {
        "nodes": 1,
        "ntasks_per_node": 1,
        "use_srun": False,
        "setup": slurm.shell_setup(cluster),
    }


def _command(folder: RunDir, out: Path, cluster: SlurmCluster, parts: int | None = None) -> str:
    arguments: Sequence[str] = [
        sys.executable, "-u", "-m", "swamp_dist", "shards", "build", str(recipe_file(folder)),
        "--out", str(out), "--workers", str(cluster.cpus_per_task),
    ]  # fmt: skip
    part = "" if parts is None else f" --part ${{SLURM_ARRAY_TASK_ID}}/{parts}"
    return f"exec {shlex.join(arguments)}{part}"
