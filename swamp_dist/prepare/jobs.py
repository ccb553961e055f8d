"""A shard set built by a scheduler's jobs: an array of parts, and a job that closes the set after them.

Restartable at every point: finished shards are kept, a part builds only what is missing, and the closing
job builds what a lost part left over. What was submitted is noted beside the set, in NAME.jobs/.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from swamp_dist.atomic_files import write_atomically
from swamp_dist.backends.follow import JobExit, follow
from swamp_dist.backends.jobs import job_lives, live_job
from swamp_dist.backends.protocols import BuildBackend, SchedulerError
from swamp_dist.config import ShardSettings
from swamp_dist.data.manifest import MANIFEST_FILE
from swamp_dist.errors import ExitCode, UserError
from swamp_dist.input_paths import with_absolute_paths
from swamp_dist.loading import dump
from swamp_dist.prepare.build import build_shards
from swamp_dist.runs.folder import RunDir


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


def submit_build(settings: ShardSettings, out: Path, backend: BuildBackend, parts: int = 1) -> BuildJobs:
    """Submit the build of a shard set, or find the jobs that work on it.

    Args:
        parts: jobs that build side by side, each with `cpus_per_job` child processes; 1 = one job.

    Raises:
        UserError: jobs cannot be submitted from here, or the scheduler refuses one or does not answer.
    """
    backend.check()
    folder = build_folder(out)
    folder.create()
    with folder.hold(job_lives(folder, backend)):
        live = _live(backend, folder)
        if live is not None:
            return BuildJobs(live, None, True, folder)
        # The jobs read it as any recipe: relative to where it lies.
        write_atomically(recipe_file(folder), dump(with_absolute_paths(settings)))
        name, command = f"{settings.name}-shards", _command(folder, out, backend.cpus_per_job)
        array = _submit_parts(f"{settings.name}-parts-shards", command, backend, parts, folder)
        closing = backend.submit_command(name, command, folder, array)
        folder.append_event("submitted", job=closing, after=array)
    return BuildJobs(closing, array[0] if array else None, False, folder)


def build_by_jobs(
    wanted: Sequence[tuple[ShardSettings, Path]], backend: BuildBackend, note: Callable[[str], None]
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
            jobs = submit_build(settings, out, backend)
            if not jobs.found:
                note(jobs.closing)
            absent.append((out, jobs))
    for out, jobs in absent:
        ended = follow(backend, jobs.folder, jobs.closing, partial(_exit_from_set, out))
        if ended.code != ExitCode.DONE:
            raise UserError(
                f"the shard set {out} was not built: {ended.reason}; see {jobs.folder.job_log(jobs.closing)}"
            )


def _exit_from_set(out: Path) -> JobExit | None:
    return JobExit(ExitCode.DONE, "done") if (out / MANIFEST_FILE).is_file() else None


def recipe_file(folder: RunDir) -> Path:
    """The recipe as resolved and with whole paths, which the jobs read."""
    return folder.path / "recipe.yaml"


def _live(backend: BuildBackend, folder: RunDir) -> str | None:
    """The closing job that waits or runs; the array before it is not listed."""
    try:
        job = live_job(backend, folder)
    except SchedulerError as error:
        raise _unanswered(error) from None
    return None if job is None else job.id


def _submit_parts(
    name: str, command: Sequence[str], backend: BuildBackend, parts: int, folder: RunDir
) -> list[str]:
    """The array as a list of one job; none where the closing job builds everything."""
    if parts == 1:
        return []
    try:
        return [backend.submit_parts(name, command, folder, parts)]
    except SchedulerError as error:
        raise _unanswered(error) from None


def _unanswered(error: SchedulerError) -> UserError:
    return UserError(f"the scheduler gives no answer, so nothing was submitted: {error}")


def _command(folder: RunDir, out: Path, workers: int) -> list[str]:
    return [
        sys.executable, "-u", "-m", "swamp_dist", "shards", "build", str(recipe_file(folder)),
        "--out", str(out), "--workers", str(workers),
    ]  # fmt: skip
