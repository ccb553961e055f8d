"""Commits: a checkpoint exists whole or not at all, whichever rank dies at whichever call.

All ranks write into `.tmp-step-N/`; rank 0 adds the manifest last and renames the folder to `step-N`,
which is the commit. Only then are older commits removed, each renamed to `.trash-step-M` first so that
a half-removed one is never mistaken for a commit. What the payload is, `write` decides.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swamp_dist.distributed import World, agree, barrier, gather_objects, on_main
from swamp_dist.records import UserError
from swamp_dist.train.commit_folder import (
    MANIFEST,
    BrokenError,
    Commit,
    PayloadFile,
    commit_size,
    fsync_folder,
    newest_size,
    read_commit,
    seal,
    step_folders,
    write_manifest,
)
from swamp_dist.train.fingerprint import check_fingerprint, fingerprint

__all__ = [
    "Commit",
    "CommitError",
    "check_fingerprint",
    "commit",
    "fingerprint",
    "newest_commit",
    "recorded_writes",
    "remove_leftovers",
]

_LEFTOVER = re.compile(r"\.(tmp|trash)-step-\d+")
_log = logging.getLogger(__name__)


class CommitError(UserError):
    """A commit failed on some rank; raised alike on all ranks. Earlier commits are untouched."""


@dataclass(frozen=True)
class _Part:
    """What one rank did: the files it wrote, or why it failed."""

    files: tuple[PayloadFile, ...] = ()
    failure: str | None = None


def commit(
    checkpoints: Path,
    step: int,
    write: Callable[[Path], Sequence[Path]],
    meta: Mapping[str, object],
    world: World,
    keep: int,
) -> Path:
    """Commit what all ranks write as `checkpoints/step-N`, then remove all but the `keep` newest.

    Args:
        checkpoints: folder of the run's commits, on a file system that all ranks share.
        step: updates done so far; a valid `step-N` that is there already is kept, a broken one replaced.
        write: writes this rank's files under the folder it is given and returns them. If it talks to
            other ranks it has to do so even where its own writing fails, and raise afterwards.
        meta: JSON values, those of rank 0 count; `newest_commit` hands them back.
        world: all of its ranks call this.
        keep: commits that stay, at least 1.

    Raises:
        CommitError: on every rank, as soon as one rank could not write its part.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}: the newest commit cannot be removed")
    if on_main(world, lambda: _prepare(checkpoints, step)):
        return checkpoints / f"step-{step}"
    parts = gather_objects(_write_part(checkpoints / f".tmp-step-{step}", write), world)
    folder = on_main(world, lambda: _publish(checkpoints, step, parts, meta))
    barrier(world)
    if world.is_main:
        _purge(checkpoints, step, keep)
    return folder


def _prepare(checkpoints: Path, step: int) -> bool:
    """Make the staging folder; True where a valid commit of this step makes the work unnecessary."""
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(checkpoints)
        if _is_committed(checkpoints / f"step-{step}"):
            return True
        needed, free = newest_size(checkpoints), shutil.disk_usage(checkpoints).free
        if needed > free:
            raise OSError(f"{free:,} bytes free, the commit before this one took {needed:,}")
        (checkpoints / f".tmp-step-{step}").mkdir()
    except OSError as error:
        raise _failed(checkpoints, step, [_said(0, error)]) from error
    return False


def _is_committed(final: Path) -> bool:
    if not os.path.lexists(final):
        return False
    try:
        read_commit(final, verify_hash=True)
    except BrokenError as reason:
        _log.warning("%s is not a valid commit and will be replaced: %s", final, reason)
        return False
    _log.info("%s is committed already", final)
    return True


def _write_part(staging: Path, write: Callable[[Path], Sequence[Path]]) -> _Part:
    try:
        staging.mkdir(exist_ok=True)  # made by rank 0; makes a network file system look again
        return _Part(files=tuple(seal(path, staging) for path in write(staging)))
    except Exception as error:  # of any kind: a rank that left alone would hang the others
        _log.exception("writing %s failed", staging)
        return _Part(failure=f"{type(error).__name__}: {error}")


def _publish(checkpoints: Path, step: int, parts: Sequence[_Part], meta: Mapping[str, object]) -> Path:
    """Rank 0's half: manifest, fsync, rename. What fails before the rename undoes the staging folder."""
    failures = [f"rank {rank}: {part.failure}" for rank, part in enumerate(parts) if part.failure]
    if failures:
        raise _failed(checkpoints, step, failures)
    staging, final = checkpoints / f".tmp-step-{step}", checkpoints / f"step-{step}"
    try:
        write_manifest(staging, step, len(parts), meta, _all_files(staging, parts))
        if os.path.lexists(final):
            os.rename(final, checkpoints / f".trash-step-{step}")
        os.rename(staging, final)
        fsync_folder(checkpoints)
    except Exception as error:  # of any kind: the other ranks wait for the answer
        raise _failed(checkpoints, step, [_said(0, error)]) from error
    return final


def _all_files(staging: Path, parts: Sequence[_Part]) -> list[PayloadFile]:
    """What the ranks reported, checked against the folder, and what nobody reported."""
    files: dict[str, PayloadFile] = {}
    for rank, part in enumerate(parts):
        if twice := {file.name for file in part.files} & files.keys():
            raise ValueError(f"{min(twice)} was written by rank {rank} and by a lower rank too")
        files |= {file.name: file for file in part.files}
    for file in files.values():
        path = staging / file.name
        if not path.is_file() or path.stat().st_size != file.bytes:
            raise OSError(f"rank 0 does not see {path} as it was written: is the folder shared by all nodes?")
    for path in sorted(path for path in staging.rglob("*") if path.is_symlink() or path.is_file()):
        name = path.relative_to(staging).as_posix()
        if name not in files:
            files[name] = seal(path, staging)
    return sorted(files.values(), key=lambda file: file.name)


def _failed(checkpoints: Path, step: int, failures: Sequence[str]) -> CommitError:
    """Remove the staging folder and say what failed, what was needed and what is left."""
    staging = checkpoints / f".tmp-step-{step}"
    written = sum(p.stat().st_size for p in staging.rglob("*") if p.is_file() and not p.is_symlink())
    shutil.rmtree(staging, ignore_errors=True)
    earlier = ", ".join(f"step-{s}" for s, _ in step_folders(checkpoints))
    needed = newest_size(checkpoints)
    free = f"{shutil.disk_usage(checkpoints).free:,} bytes" if checkpoints.is_dir() else "unknown"
    return CommitError(
        f"{checkpoints}: the checkpoint of step {step} could not be written.\n  "
        + "\n  ".join(failures)
        + f"\nneeded: {f'about {needed:,}' if needed > written else f'over {written:,}'} bytes; free there: {free}; "
        f"earlier checkpoints, untouched: {earlier or 'none'}\n"
        "Fix: free space, raise the quota or file size limit (ulimit -f) or lower train.checkpoint.keep,\n"
        "then run the same command again."
    )


def _said(rank: int, error: BaseException) -> str:
    return f"rank {rank}: {type(error).__name__}: {error}"


def remove_leftovers(checkpoints: Path, world: World) -> None:
    """Remove what a killed commit or a killed removal left behind. All ranks call it, at the start."""
    on_main(world, lambda: _remove_leftovers(checkpoints))


def _remove_leftovers(checkpoints: Path) -> None:
    if not checkpoints.is_dir():
        return
    for name in sorted(os.listdir(checkpoints)):
        path = checkpoints / name
        if not _LEFTOVER.fullmatch(name):
            continue
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)


def _purge(checkpoints: Path, step: int, keep: int) -> None:
    """Remove commits older than the `keep` newest whole ones up to `step`. Failing here loses nothing.

    Commits after `step` are those that a fallback skipped; they neither count nor are touched.
    """
    older = [(s, f) for s, f in step_folders(checkpoints) if s <= step and (f / MANIFEST).is_file()]
    whole = [s for s, folder in older if commit_size(folder) is not None]
    try:
        for s, folder in older:
            if len(whole) >= keep and s < whole[keep - 1]:
                os.rename(folder, checkpoints / f".trash-step-{s}")
        _remove_leftovers(checkpoints)
    except OSError as error:
        _log.warning("old checkpoints could not be removed, going on: %s", error)


def newest_commit(checkpoints: Path, world: World, verify_hash: bool = True) -> Commit | None:
    """The newest valid commit, chosen by rank 0 for all ranks; None where nothing was ever committed.

    A broken commit is skipped with a warning that says what is wrong with it.

    Args:
        checkpoints: folder of the run's commits.
        world: all of its ranks call this.
        verify_hash: read every file and compare its sha256; otherwise only sizes are compared.

    Raises:
        UserError: commits are there but none is valid, or some rank does not see the chosen one.
    """
    found = on_main(world, lambda: _choose(checkpoints, verify_hash))
    if found is not None and agree(not (found.folder / MANIFEST).is_file(), world):
        raise UserError(
            f"{found.folder}: rank 0 sees this checkpoint and another rank does not.\n"
            "The run folder has to be on a file system that all nodes share: choose another --run-dir."
        )
    return found


def _choose(checkpoints: Path, verify_hash: bool) -> Commit | None:
    reasons = []
    for _, folder in step_folders(checkpoints):
        try:
            return read_commit(folder, verify_hash)
        except BrokenError as reason:
            _log.warning("%s is broken and skipped: %s", folder, reason)
            reasons.append(f"{folder.name}: {reason}")
    if not reasons:
        return None
    raise UserError(
        f"{checkpoints}: checkpoints are there, but none is valid.\n  " + "\n  ".join(reasons) + "\n"
        "Fix: restore one from a backup, or move the folder away to train from the beginning."
    )


@contextmanager
def recorded_writes(deepspeed_engine: Any) -> Iterator[list[Path]]:
    """Files that DeepSpeed writes on this rank inside the block; a failed write is raised at its end.

    `save_checkpoint` has barriers between its writes: a rank that raised at once would leave the others
    waiting in one. So a failed write is remembered and the rank stays in step until the block ends.
    The recovery scripts that DeepSpeed copies beside a checkpoint are left out.
    """
    backend = deepspeed_engine.checkpoint_engine
    save, makedirs = backend.save, backend.makedirs
    files: list[Path] = []
    errors: list[Exception] = []

    def recorded_save(state_dict: Any, path: str) -> None:
        try:
            save(state_dict, path)
            files.append(Path(path))
        except (OSError, RuntimeError) as error:  # torch reports a full disk as either
            errors.append(error)

    def recorded_makedirs(path: str, exist_ok: bool = False) -> None:
        try:
            makedirs(path, exist_ok=exist_ok)
        except OSError as error:
            errors.append(error)

    backend.save, backend.makedirs = recorded_save, recorded_makedirs
    deepspeed_engine._copy_recovery_script = lambda save_path: None
    try:
        yield files
    finally:
        del backend.save, backend.makedirs, deepspeed_engine._copy_recovery_script
    if errors:
        raise errors[0]
