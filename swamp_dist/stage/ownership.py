"""A run folder is one attempt's at a time: wait for the one before, stop where a later one took over."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from swamp_dist.distributed import World, agree, on_main
from swamp_dist.environment import job_id, job_restarts
from swamp_dist.errors import PredecessorHolds, RunDirLost
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.lock import FolderHold, JobLives

logger = logging.getLogger(__name__)
PREDECESSOR_SECONDS = 300.0
"""How long an attempt keeps its machines while an earlier attempt of its job still works in the folder; then
it asks to be queued again."""
_PAUSE = 1.0
_Answer = TypeVar("_Answer")
CheckOwner = Callable[[], None]
"""Called on rank 0 before each write that others build on; raises where the folder is another's."""


class PredecessorStays(Exception):
    """An earlier attempt of the job works on in the folder: this one asks to be started again later."""


@dataclass(frozen=True)
class Ownership:
    """The folder as the ranks of one attempt own it; rank 0 has the lock."""

    _held: list[FolderHold]
    """Of rank 0; empty on the others."""

    def check(self) -> None:
        """Ask whether the folder is still this attempt's. Called on rank 0, inside `on_main`.

        Raises:
            RunDirLost: it is not; nothing may be written any more.
        """
        for held in self._held:
            held.check()

    @contextlib.contextmanager
    def checked_before(self, ending: type[Exception], world: World) -> Iterator[None]:
        """Check before an ending of the block is told to anybody: a stop may have been asked for because the
        folder is another's. All ranks raise it together."""
        try:
            yield
        except ending:
            on_main(world, self.check)
            raise

    def lost(self) -> bool:
        """Whether it was seen that the folder is another's: a reason to come to a check soon. Asks nobody."""
        return any(held.lost for held in self._held)


def checked(check_owner: CheckOwner, write: Callable[[], _Answer]) -> Callable[[], _Answer]:
    """`write`, once it is sure that the folder is still this attempt's."""

    def answer() -> _Answer:
        check_owner()
        return write()

    return answer


def take_folder(
    run_dir: RunDir,
    world: World,
    stack: contextlib.ExitStack,
    stop_requested: Callable[[], bool],
    job_lives: JobLives,
) -> Ownership:
    """Own the folder until `stack` ends, once the attempt before has ended. All ranks call it.

    Args:
        stop_requested: ends the waiting.
        job_lives: asked about the job of a holder on another host.

    Raises:
        PredecessorStays: it has not ended within `PREDECESSOR_SECONDS`, or a signal asked to stop.
        RunDirHeld: somebody else works there.
    """
    held: list[FolderHold] = []
    deadline, said = time.monotonic() + PREDECESSOR_SECONDS, ""

    def take() -> str:
        try:
            held.append(stack.enter_context(run_dir.hold(job_lives)))
        except PredecessorHolds as error:
            return str(error).splitlines()[0].rstrip(".")
        return ""

    while behind := on_main(world, take):
        if not said:
            logger.warning(
                f"{behind}: an earlier attempt of this job. Waiting for its end, at most "
                f"{PREDECESSOR_SECONDS:.0f} s"
            )
        said = behind
        if agree(stop_requested() or time.monotonic() > deadline, world):
            on_main(world, partial(_note, run_dir, "waited", behind))
            raise PredecessorStays(
                f"{behind}: an earlier attempt of this job, which has not ended; nothing was begun. "
                "This one asks to be queued again"
            )
        time.sleep(_PAUSE)
    return Ownership(held)


def note_loss(run_dir: RunDir, lost: RunDirLost, world: World) -> None:
    """Leave word in the events, which both attempts may add to. All ranks call it."""
    with contextlib.suppress(OSError):
        on_main(world, partial(_note, run_dir, "superseded", str(lost).splitlines()[0]))


def _note(run_dir: RunDir, event: str, reason: str) -> None:
    run_dir.append_event(event, job=job_id(), restart=job_restarts(), reason=reason)
