"""May a stage be run in this folder now? The one place that knows the order of the questions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swamp_dist.config import StageSettings
from swamp_dist.errors import RunDirHeld, UserError
from swamp_dist.loading import describe, dump, load_dumped, value_text
from swamp_dist.records import JobState, StageResult
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.lock import JobLives
from swamp_dist.runs.provenance import AVERAGED, ENCODER_FILES, encoder_files_sha256, weights_sha256
from swamp_dist.settings import is_below, same_result_keys
from swamp_dist.stage.longer import check_checkpoints, more_epochs
from swamp_dist.stage.resolve import ResolvedStage, resolve
from swamp_dist.train.weights_record import RESTORE, check_sha256, say_unchecked

FindJob = Callable[[RunDir], tuple[str, JobState] | None]
"""Scheduler's name and the job that waits or runs for a folder; None where there is none.

Raises:
    UserError: the scheduler gives no answer.
"""


@dataclass(frozen=True)
class FolderState:
    """What was found in a run folder that nothing speaks against."""

    done: bool
    job: JobState | None = None
    """The job that works on the stage with the same settings; only where the caller follows jobs."""


def open_run(
    run_dir: RunDir,
    settings: StageSettings,
    world_size: int,
    find_job: FindJob | None,
    job_lives: JobLives,
) -> ResolvedStage | None:
    """The stage, ready to run in this folder; None where it is done already. Writes nothing.

    The questions, in this order; the first that is answered with no ends them:

    0. A folder that holds a shard set is refused.
    1. A finished stage of other settings or other initial weights is refused; of the same ones it is done;
       with more epochs it goes on, once `longer.go_on` has set its result aside.
    2. A job that waits or runs for the folder refuses it (`find_job`; None does not ask).
    3. A process that holds the folder refuses it (`job_lives` tells of one in a job on another host).
    4. Settings, shard set, starting weights and the newest checkpoint have to fit (`resolve`).

    Raises:
        UserError: 0, 1 or 4, or no answer in 2; every message has the fix.
        RunDirHeld: 2 or 3; the message names who holds it.
    """
    if check_folder(run_dir, settings, find_job, follows=False, longer=True).done:
        return None
    try:
        run_dir.refuse_if_held(job_lives)
    except RunDirHeld as held:
        if has_other_settings(run_dir, settings):
            raise RunDirHeld(f"{held}\nThe settings of this command are not applied to it.") from None
        raise
    return resolve(settings, run_dir, world_size)


def check_folder(
    run_dir: RunDir,
    settings: StageSettings,
    find_job: FindJob | None,
    *,
    follows: bool,
    longer: bool = False,
) -> FolderState:
    """Questions 0 to 2 of `open_run` alone, for graphs, whose stages start later.

    Args:
        follows: a job of the same settings is no obstacle: it will be waited for.
        longer: a finished stage that is asked for with more epochs is not done.

    Raises:
        UserError, RunDirHeld: as `open_run`.
    """
    run_dir.refuse_shard_set()
    if check_finished(run_dir, settings, longer=longer):
        return FolderState(done=True)
    if find_job is None or (follows and not has_other_settings(run_dir, settings)):
        return FolderState(done=False)
    found = find_job(run_dir)
    if found is not None:
        other = has_other_settings(run_dir, settings)
        raise RunDirHeld(_held_by_job(run_dir, *found, other_settings=other))
    return FolderState(done=False)


def has_other_settings(run_dir: RunDir, settings: StageSettings) -> bool:
    """Whether the folder's stage.yaml, which a job reads at each of its starts, says something else."""
    return run_dir.stage_yaml.is_file() and run_dir.stage_yaml.read_bytes() != dump(settings).encode()


def _held_by_job(run_dir: RunDir, scheduler: str, job: JobState, *, other_settings: bool) -> str:
    held = f"run folder {run_dir.path} is held by {scheduler} job {job.id}, which is {job.word}"
    if other_settings:
        return (
            f"{held}, with other settings than were asked for, which are not applied: compare "
            f"{run_dir.stage_yaml}.\n"
            f"Give the command it was submitted with, end it with `swamp cancel {run_dir.path}`, or choose "
            "another --run-dir."
        )
    return (
        f"{held}.\nIt continues by itself. Watch it with `swamp status {run_dir.path}`, end it with "
        f"`swamp cancel {run_dir.path}` (ended by the scheduler's own command it may queue itself again), or "
        "choose another --run-dir."
    )


def check_finished(run_dir: RunDir, settings: StageSettings, *, longer: bool = False) -> bool:
    """Refuse to pass off a finished stage as one with other settings or other initial weights.

    Does nothing where the stage is not finished. Settings marked `SAME_RESULT` may differ, as on a resume;
    others that a resume accepts (what is validated or selected) decide what the result is.

    Args:
        longer: more epochs are no difference: the stage will be trained for longer.

    Returns:
        Whether the stage is finished as it is asked for; not so, with `longer`, one that will be trained on.

    Raises:
        UserError: names the differing settings, what the result was made with and what was asked for.
    """
    result = run_dir.read_result()
    if result is None or not run_dir.stage_yaml.is_file():
        return result is not None
    made = _values(load_dumped(run_dir.stage_yaml, StageSettings))
    asked = _values(settings)
    # a section that one of them lacks is told by what it says, not by what it leaves open
    keys = [key for key in sorted({*made, *asked}) if made.get(key, "null") != asked.get(key, "null")]
    goes_on = keys == ["train.epochs"] and more_epochs(run_dir, settings) is not None
    if longer and goes_on:
        check_checkpoints(run_dir)
        return False
    differences = [f"{key}: was {made.get(key, 'null')}, asked {asked.get(key, 'null')}" for key in keys]
    _check_weights(run_dir, result)
    initial = settings.train.init_from if settings.train is not None else settings.weights
    present = None if initial is None else weights_sha256(initial)
    if not differences and present not in (None, result.provenance.get("initial_weights_sha256")):
        differences = [f"{initial}: its weights have changed since"]
    averaged = result.provenance.get(AVERAGED)
    if not differences and isinstance(averaged, dict):
        differences = [
            f"{source}: its weights have changed since"
            for source, sha256 in averaged.items()
            if weights_sha256(Path(source)) not in (None, sha256)
        ]
    recorded = result.provenance.get(ENCODER_FILES)
    if not differences and isinstance(recorded, dict):
        with contextlib.suppress(UserError):  # a finished stage does not need the files any more
            present_files = encoder_files_sha256(settings)
            differences = [
                f"{key}: its files have changed since: was sha256 {recorded[key]}, found {digest}"
                for key, digest in present_files.items()
                if recorded.get(key, digest) != digest
            ]
    if differences:
        listed = "\n  ".join(differences)
        fix = "Choose another --run-dir, or move that folder away to make it anew."
        if goes_on:
            fix = f"Train that stage for longer by itself: swamp run JOB ... --run-dir {run_dir.path}"
        raise UserError(f"{run_dir.path} holds a finished stage that was made otherwise:\n  {listed}\n{fix}")
    return True


def _check_weights(run_dir: RunDir, result: StageResult) -> None:
    """A finished stage is no more done than its weights are whole: later stages would read them.

    Raises:
        UserError: they are gone, or have changed since the result was written.
    """
    if result.weights != run_dir.weights:
        return
    if result.weights_sha256 is None:
        say_unchecked(run_dir.weights)
        return
    found = weights_sha256(run_dir.weights)
    if found is None:
        raise UserError(f"{run_dir.weights}: the weights of a finished stage are gone.\n{RESTORE}")
    check_sha256(run_dir.weights, found, result.weights_sha256, RESTORE)


def _values(settings: StageSettings) -> dict[str, str]:
    same = set(same_result_keys(settings))
    return {s.key: value_text(s.value) for s in describe(settings) if not is_below(s.key, same)}
