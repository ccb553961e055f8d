"""How a rank ends: asked to by a signal, or by an error that the user reads on one screen."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
from collections.abc import Callable, Iterator, Sequence

from swamp_dist.distributed import World
from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.rundir import RunDir
from swamp_dist.records import UserError

logger = logging.getLogger(__name__)
_STORAGE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.EIO,
}
_CONTINUES = "the same command continues from the last commit, which is untouched"


@contextlib.contextmanager
def stop_signals(earlier: Sequence[int] = ()) -> Iterator[Callable[[], bool]]:
    """SIGTERM and SIGUSR2 set a flag that the loop reads at the next step edge; nothing else happens here.

    `earlier` are those that came before this block.
    """
    asked: list[int] = []
    before = {
        n: signal.signal(n, lambda number, _: asked.append(number)) for n in (signal.SIGTERM, signal.SIGUSR2)
    }
    try:
        yield lambda: bool(asked or earlier)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def failed(error: Exception, run_dir: RunDir, world: World) -> int:
    """Say what ended this rank, the trace of a surprise only in its log file; the exit code.

    Each rank says it for itself: a damaged shard is met by the one rank that reads it.
    """
    trace = False
    if isinstance(error, UserError):
        code, reason = ExitCode.USER_MISTAKE, str(error)
    elif isinstance(error, OSError) and error.errno in _STORAGE:
        code = ExitCode.USER_MISTAKE
        reason = f"{error}.\nFree space, raise the quota or mend the permissions; {_CONTINUES}."
    elif _left_by_peers(error, world):
        code, reason = ExitCode.FAILED, f"rank {world.rank} lost its connection to another rank and stopped"
    else:
        code, trace = ExitCode.FAILED, True
        said = (str(error).splitlines() or [""])[0]
        reason = (
            f"rank {world.rank} stopped by {type(error).__name__}: {said}\n"
            f"Trace: {run_dir.log(world.rank)}; {_CONTINUES}."
        )
    if world.is_main:
        with contextlib.suppress(OSError):
            run_dir.append_event("failed", reason=reason)
    logger.error(reason, exc_info=error if trace else None)
    return code


def _left_by_peers(error: Exception, world: World) -> bool:
    """Whether a collective failed because another rank ended; what ended that one, it says itself.

    gloo raises a bare RuntimeError, so its words have to tell.
    """
    return world.size > 1 and isinstance(error, RuntimeError) and "onnection" in str(error)


def say(code: ExitCode, message: str) -> int:
    """Log an ending and pass its code on."""
    logger.error(message)  # every rank in its log file, the main rank on the console too
    return code
