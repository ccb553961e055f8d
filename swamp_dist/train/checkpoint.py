"""Commits: a checkpoint exists whole or not at all, whichever rank dies at whichever call.

All ranks write into `.tmp-step-N/`; rank 0 adds the manifest last and renames the folder to `step-N`,
which is the commit. Only then are older commits removed, each renamed to `.trash-step-M` first so that
a half-removed one is never mistaken for a checkpoint. What the payload is, `write` decides.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swamp_dist.atomic_files import sync_folder
from swamp_dist.distributed import World, barrier, gather_objects, on_main
from swamp_dist.errors import OUT_OF_SPACE, UserError, fix_of, system_error
from swamp_dist.train.checkpoint_folder import (
    MANIFEST,
    BrokenError,
    PayloadFile,
    checkpoint_size,
    newest_size,
    read_checkpoint,
    seal,
    step_folders,
    write_manifest,
)

_LEFTOVER = re.compile(r"\.(tmp|trash)-step-\d+")
_log = logging.getLogger(__name__)


class CommitError(UserError):
    """A commit failed on some rank; raised alike on all ranks. Earlier commits are untouched."""


@dataclass(frozen=True)
class _Part:
    """What one rank did: the files it wrote, or why it failed."""

    files: tuple[PayloadFile, ...] = ()
    failure: str | None = None
    errno: int | None = None
    """Of the refused write."""


def commit(
    checkpoints: Path,
    step: int,
    write: Callable[[Path], Sequence[Path]],
    meta: Mapping[str, object],
    world: World,
    keep: int,
    check_owner: Callable[[], None] = lambda: None,
) -> Path:
    """Commit what all ranks write as `checkpoints/step-N`, then remove all but the `keep` newest.

    Args:
        checkpoints: folder of the run's commits, on a file system that all ranks share. It is there: one that
            was removed while its run went on is not half made again.
        step: updates done so far; a valid `step-N` that is there already is kept, a broken one replaced.
        write: writes this rank's files under the folder it is given and returns them. If it talks to
            other ranks it has to do so even where its own writing fails, and raise the OSError afterwards.
            Anything else that it raises ends this rank at once: after an exception in the middle of a
            collective its next one would meet another one of its peers.
        meta: JSON values, those of rank 0 count; `newest_checkpoint` hands them back.
        world: all of its ranks call this.
        keep: checkpoints that stay, at least 1.
        check_owner: called on rank 0 before anything is touched and again before the rename; what it raises
            is raised on every rank, and the staging folder stays: it may be the new owner's by then.

    Raises:
        CommitError: on every rank, as soon as one rank could not write its part.
        ValueError: on every rank; two of them wrote the same file.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}: the newest checkpoint cannot be removed")

    def prepare() -> bool:
        check_owner()
        return _prepare(checkpoints, step)

    if on_main(world, prepare):
        return checkpoints / f"step-{step}"
    parts = gather_objects(_write_part(checkpoints / f".tmp-step-{step}", write), world)
    _check_names(parts)

    def publish() -> Path:
        check_owner()
        return _publish(checkpoints, step, parts, meta)

    folder = on_main(world, publish)
    barrier(world)
    if world.is_main:
        _purge(checkpoints, step, keep)
    return folder


def _prepare(checkpoints: Path, step: int) -> bool:
    """Make the staging folder, and none above it; True where a valid checkpoint of this step makes the work
    unnecessary."""
    try:
        _remove_leftovers(checkpoints)
        if _is_committed(checkpoints / f"step-{step}"):
            return True
        needed, free = newest_size(checkpoints), shutil.disk_usage(checkpoints).free
        if needed > free:
            said = f"{free:,} bytes free, the checkpoint before this one took {needed:,}"
            raise OSError(errno.ENOSPC, said)
        (checkpoints / f".tmp-step-{step}").mkdir()
    except OSError as error:
        raise _failed(checkpoints, step, [_said(0, error)], error.errno) from error
    return False


def _is_committed(final: Path) -> bool:
    if not os.path.lexists(final):
        return False
    try:
        read_checkpoint(final, verify_hash=True)
    except BrokenError as reason:
        _log.warning("%s is not a valid checkpoint and will be replaced: %s", final, reason)
        return False
    _log.info("%s is committed already", final)
    return True


def _write_part(staging: Path, write: Callable[[Path], Sequence[Path]]) -> _Part:
    try:
        staging.mkdir(exist_ok=True)  # made by rank 0; makes a network file system look again
        return _Part(files=tuple(seal(path, staging) for path in write(staging)))
    except OSError as error:  # told to all: a rank that left alone would leave the others waiting
        _log.exception("writing %s failed", staging)
        return _Part(failure=f"{type(error).__name__}: {error}", errno=error.errno)


def _check_names(parts: Sequence[_Part]) -> None:
    """Every file has one rank that wrote it."""
    seen: set[str] = set()
    for rank, part in enumerate(parts):
        names = {file.name for file in part.files}
        if twice := names & seen:
            raise ValueError(f"{min(twice)} was written by rank {rank} and by a lower rank too")
        seen |= names


def _publish(checkpoints: Path, step: int, parts: Sequence[_Part], meta: Mapping[str, object]) -> Path:
    """Rank 0's half: manifest, fsync, rename. What fails before the rename undoes the staging folder."""
    failures = [f"rank {rank}: {part.failure}" for rank, part in enumerate(parts) if part.failure]
    if failures:
        raise _failed(checkpoints, step, failures, next(part.errno for part in parts if part.failure))
    staging, final = checkpoints / f".tmp-step-{step}", checkpoints / f"step-{step}"
    try:
        write_manifest(staging, step, len(parts), meta, _all_files(staging, parts))
        if os.path.lexists(final):
            os.rename(final, checkpoints / f".trash-step-{step}")
        os.rename(staging, final)
        sync_folder(checkpoints)
    except OSError as error:
        raise _failed(checkpoints, step, [_said(0, error)], error.errno) from error
    return final


def _all_files(staging: Path, parts: Sequence[_Part]) -> list[PayloadFile]:
    """What the ranks reported, checked against the folder, and what nobody reported."""
    files = {file.name: file for part in parts for file in part.files}
    for file in files.values():
        path = staging / file.name
        if not path.is_file() or path.stat().st_size != file.bytes:
            raise OSError(f"rank 0 does not see {path} as it was written: is the folder shared by all nodes?")
    for path in sorted(path for path in staging.rglob("*") if path.is_symlink() or path.is_file()):
        name = path.relative_to(staging).as_posix()
        if name not in files:
            files[name] = seal(path, staging)
    return sorted(files.values(), key=lambda file: file.name)


def _failed(checkpoints: Path, step: int, failures: Sequence[str], number: int | None) -> CommitError:
    """Remove the staging folder and say what failed, what is left and what helps; `number`: the errno."""
    said = f"{checkpoints}: the checkpoint of step {step} could not be written.\n  " + "\n  ".join(failures)
    if not checkpoints.is_dir():
        return CommitError(
            f"{said}\nThe folder {checkpoints} is gone, and the checkpoints with it; nothing was made in its "
            "place.\nFix: put it back and run the same command again: it continues from what is "
            "there then."
        )
    try:
        needed, written = _space(checkpoints, step)
        shutil.rmtree(checkpoints / f".tmp-step-{step}", ignore_errors=True)
        earlier = ", ".join(f"step-{s}" for s, _ in step_folders(checkpoints))
        free = f"{shutil.disk_usage(checkpoints).free:,} bytes"
    except OSError as error:
        return CommitError(f"{said}\nWhat is there now cannot be looked at: {system_error(error)}")
    left = f"earlier checkpoints, untouched: {earlier or 'none'}"
    if number not in OUT_OF_SPACE:
        return CommitError(f"{said}\n{left}\nFix: {fix_of(number)} Then run the same command again.")
    bounded = f"about {needed:,}" if needed > written else f"over {written:,}"
    return CommitError(
        f"{said}\nneeded: {bounded} bytes; free there: {free}; {left}\n"
        "Fix: free space, raise the quota or file size limit (ulimit -f) or lower train.checkpoint.keep,\n"
        "then run the same command again."
    )


def _space(checkpoints: Path, step: int) -> tuple[int, int]:
    """Bytes of the checkpoint before, and of what was written of this one."""
    files = (checkpoints / f".tmp-step-{step}").rglob("*")
    return newest_size(checkpoints), sum(
        f.stat().st_size for f in files if f.is_file() and not f.is_symlink()
    )


def _said(rank: int, error: BaseException) -> str:
    return f"rank {rank}: {type(error).__name__}: {error}"


def prepare_checkpoints(checkpoints: Path, world: World) -> None:
    """Make the folder, and remove what a killed commit or a killed removal left behind in it.

    All ranks call it, at the start of a run and never after.
    """

    def prepare() -> None:
        checkpoints.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(checkpoints)

    on_main(world, prepare)


def _remove_leftovers(checkpoints: Path) -> None:
    for name in sorted(os.listdir(checkpoints)):
        path = checkpoints / name
        if not _LEFTOVER.fullmatch(name):
            continue
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)


def _purge(checkpoints: Path, step: int, keep: int) -> None:
    """Remove checkpoints older than the `keep` newest whole ones up to `step`. Failing here loses nothing.

    Checkpoints after `step` are those that a fallback skipped; they neither count nor are touched.
    """
    older = [(s, f) for s, f in step_folders(checkpoints) if s <= step and (f / MANIFEST).is_file()]
    whole = [s for s, folder in older if checkpoint_size(folder) is not None]
    try:
        for s, folder in older:
            if len(whole) >= keep and s < whole[keep - 1]:
                os.rename(folder, checkpoints / f".trash-step-{s}")
        _remove_leftovers(checkpoints)
    except OSError as error:
        _log.warning("old checkpoints could not be removed, going on: %s", error)
