"""One rank of a stage: runs it under the folder's lock; its end becomes exit code, event and message.

Exit codes: 0 done, 2 a user's mistake, 3 run folder held by another job or lost to one, 75 asked to be
started again (saved, or an earlier attempt of the same job still works in the folder), 1 anything else.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from swamp_dist.config import StageSettings
from swamp_dist.distributed import World, join, leave, lost_peers, on_main
from swamp_dist.environment import check_batch_mark
from swamp_dist.errors import ExitCode, RunDirHeld, RunDirLost, UserError, system_error
from swamp_dist.loading import load_dumped
from swamp_dist.printable import printable
from swamp_dist.rendezvous import RendezvousError
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.lock import JobLives
from swamp_dist.stage.ownership import PredecessorStays, note_loss, take_folder
from swamp_dist.stage.rank_log import configure_logging
from swamp_dist.stage.run import run_stage
from swamp_dist.stage.run_events import note_start
from swamp_dist.stop_requests import StopRequest, stop_signals
from swamp_dist.train.alarms import StoppedByAlarm
from swamp_dist.train.checkpoint_folder import checkpoint_size, step_folders
from swamp_dist.train.loop import Preempted

logger = logging.getLogger(__name__)


def run_rank(stage_yaml: Path, folder: Path, early: Sequence[int], job_lives: JobLives) -> int:
    """Join the world that the environment describes and run the stage; the exit code.

    Args:
        early: signals that asked to stop before this module was imported.
        job_lives: asked about the job of a holder of the folder on another host.
    """
    run_dir = RunDir(folder)
    with stop_signals(early) as stop_requested:  # before joining, which waits for the slowest rank
        try:
            check_batch_mark()
            world = join()
        except UserError as error:  # there is no log file yet: the launcher keeps what stands here
            sys.stderr.write(printable(f"error: {error}\n"))
            return ExitCode.FAILED if isinstance(error, RendezvousError) else ExitCode.USER_MISTAKE
        with contextlib.ExitStack() as stack:
            stack.push(_say_release)
            code = _run_guarded(stage_yaml, run_dir, world, stop_requested, job_lives, stack)
        if code != ExitCode.FAILED:  # then its peers may be inside a collective, which leaving could wait for
            leave()
        return code


def _run_guarded(
    stage_yaml: Path,
    run_dir: RunDir,
    world: World,
    stop_requested: StopRequest,
    job_lives: JobLives,
    stack: contextlib.ExitStack,
) -> int:
    """Run the stage under the folder's lock, which ends with `stack`, and turn its endings into exit codes
    and events."""
    try:
        # Folder, log file and settings; then the lock.
        on_main(world, run_dir.create)
        configure_logging(world, str(run_dir.log(world.rank)))
        settings = load_dumped(stage_yaml, StageSettings)
        owned = take_folder(run_dir, world, stack, stop_requested, job_lives)

        # The stage, between the events that say when it ran.
        note_start(run_dir, world)
        with owned.checked_before(Preempted, world):
            run_stage(settings, run_dir, world, lambda: stop_requested() or owned.lost(), owned.check)
        on_main(world, lambda: run_dir.append_event("done"))
    except RunDirLost as lost:
        note_loss(run_dir, lost, world)
        return log_ending(ExitCode.HELD if lost.attempt else ExitCode.FAILED, str(lost))
    except RunDirHeld as held:
        return log_ending(ExitCode.HELD, str(held))
    except PredecessorStays as stays:
        return log_ending(ExitCode.REQUEUE, str(stays))
    except Preempted as preempted:
        return _log_stop(preempted.step, stop_requested.reason, run_dir, world)
    except StoppedByAlarm as stopped:
        return _log_alarm(stopped, run_dir, world)
    except Exception as error:
        return log_failure(error, run_dir, world)
    return ExitCode.DONE


def _log_stop(step: int, reason: str, run_dir: RunDir, world: World) -> int:
    """Say that the run has saved and stops; `reason`: empty where another rank was asked."""
    _note_saved(run_dir, world, "preempted", step=step, **({"reason": reason} if reason else {}))
    by = f" ({reason})" if reason else ""
    return log_ending(ExitCode.REQUEUE, f"{Preempted(step)}{by}; the same command continues")


def _log_alarm(stopped: StoppedByAlarm, run_dir: RunDir, world: World) -> int:
    """Say that the run has saved and ends because of its alarms; another start would end as well."""
    _note_saved(run_dir, world, "failed", step=stopped.step, reason=str(stopped), by_alarm=True)
    return log_ending(ExitCode.FAILED, str(stopped))


def _note_saved(run_dir: RunDir, world: World, event: str, **details: object) -> None:
    if world.is_main:
        try:
            run_dir.append_event(event, **details)
        except OSError as error:  # what is committed is committed
            logger.warning("%s", system_error(error))


def _say_release(_kind: object, error: BaseException | None, _trace: object) -> bool:
    """The folder could not be given back: said, and no other ending than the run had."""
    if not isinstance(error, OSError):
        return False
    logger.warning("the run folder is left as it is: %s", system_error(error))
    return True


def log_failure(error: Exception, run_dir: RunDir, world: World) -> int:
    """Say what ended this rank, the trace of a surprise only in its log file; the exit code.

    Each rank says it for itself: a damaged shard is met by the one rank that reads it.
    """
    trace = False
    if isinstance(error, UserError):
        code, reason = ExitCode.USER_MISTAKE, str(error)
    elif isinstance(error, OSError):
        left = _what_is_left(run_dir)
        if error.errno in (errno.ENOENT, errno.ESTALE):  # what is there now may be gone in a moment
            left = f"Look at what is left of {run_dir.path} before you give the command again."
        code, reason = ExitCode.USER_MISTAKE, f"{system_error(error)}\n{left}"
    elif lost_peers(error, world):
        code, reason = ExitCode.FAILED, f"rank {world.rank} lost its connection to another rank and stopped"
    else:
        code, trace = ExitCode.FAILED, True
        said = (str(error).splitlines() or [""])[0]
        reason = (
            f"rank {world.rank} stopped by {type(error).__name__}: {said}\n"
            f"Trace: {run_dir.log(world.rank)}.\n{_what_is_left(run_dir)}"
        )
    if world.is_main:
        with contextlib.suppress(OSError):
            if run_dir.events_jsonl.is_file():  # else the folder is gone, and stays so
                run_dir.append_event("failed", reason=reason)
    logger.error(reason, exc_info=error if trace else None)
    return code


def _what_is_left(run_dir: RunDir) -> str:
    """From where the same command goes on: what is there now, and nothing that is only remembered."""
    try:
        steps = [s for s, folder in step_folders(run_dir.checkpoints) if checkpoint_size(folder) is not None]
    except OSError as error:
        return f"Its checkpoints cannot be looked at: {system_error(error)}"
    if steps:
        return f"The same command continues from checkpoint step-{steps[0]}."
    return f"No checkpoint is in {run_dir.checkpoints}: the same command begins anew."


def log_ending(code: ExitCode, message: str) -> int:
    """Log an ending and pass its code on."""
    logger.error(message)  # every rank in its log file, the main rank on the console too
    return code
