"""Which commit a run goes on from: the newest valid one, chosen by rank 0 for all ranks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from swamp_dist.distributed import World, agree, on_main
from swamp_dist.errors import UserError
from swamp_dist.train.checkpoint_folder import (
    MANIFEST,
    BrokenError,
    Checkpoint,
    read_checkpoint,
    step_folders,
)

_log = logging.getLogger(__name__)


def newest_checkpoint(
    checkpoints: Path,
    world: World,
    verify_hash: bool = True,
    check: Callable[[Checkpoint], None] = lambda found: None,
) -> Checkpoint | None:
    """The newest valid commit, chosen by rank 0 for all ranks; None where nothing was ever committed.

    A broken checkpoint is skipped with a warning that says what is wrong with it.

    Args:
        checkpoints: folder of the run's checkpoints.
        world: all of its ranks call this.
        verify_hash: read every file and compare its sha256; otherwise only sizes are compared.
        check: asked on rank 0 about what a checkpoint needs outside of its folder; raises BrokenError.

    Raises:
        UserError: checkpoints are there but none is valid, or some rank does not see the chosen one.
    """
    found = on_main(world, lambda: _choose(checkpoints, verify_hash, check))
    if found is not None and agree(not (found.folder / MANIFEST).is_file(), world):
        raise UserError(
            f"{found.folder}: rank 0 sees this checkpoint and another rank does not.\n"
            "The run folder has to be on a file system that all nodes share: choose another --run-dir."
        )
    return found


def _choose(checkpoints: Path, verify_hash: bool, check: Callable[[Checkpoint], None]) -> Checkpoint | None:
    reasons = []
    for _, folder in step_folders(checkpoints):
        try:
            found = read_checkpoint(folder, verify_hash)
            check(found)
            return found
        except BrokenError as reason:
            _log.warning("%s is broken and skipped: %s", folder, reason)
            reasons.append(f"{folder.name}: {reason}")
    if not reasons:
        return None
    raise UserError(
        f"{checkpoints}: checkpoints are there, but none is valid.\n  " + "\n  ".join(reasons) + "\n"
        "Fix: restore one from a backup, or move the folder away to train from the beginning."
    )
