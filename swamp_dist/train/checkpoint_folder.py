"""A committed folder on disk: payload files and the manifest that says whether they are whole.

One process, no ranks: who writes what and when is the business of `checkpoint`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from swamp_dist.atomic_files import HashedFile, sync_folder
from swamp_dist.file_names import CHECKPOINT_MANIFEST

MANIFEST = CHECKPOINT_MANIFEST
_SCHEMA = 1
_NAME = re.compile(r"step-(0|[1-9]\d*)")


class BrokenError(Exception):
    """Says why a folder is not a valid checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    step: int
    """Updates done when it was written."""
    folder: Path
    world_size: int
    """Ranks that wrote it."""
    meta: Mapping[str, Any]
    """What the caller of `commit` gave, after a round trip through JSON."""


@dataclass(frozen=True)
class PayloadFile:
    """One file of a checkpoint; `name` is its path inside the folder, with forward slashes."""

    name: str
    bytes: int
    sha256: str


def seal(path: Path, folder: Path) -> PayloadFile:
    """Force a written file of `folder` to disk and hash it.

    Raises:
        OSError: it cannot be read or is a symbolic link.
        ValueError: it is not inside `folder`.
    """
    if path.is_symlink():
        raise OSError(f"{path} is a symbolic link: a checkpoint holds plain files")
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return PayloadFile(path.relative_to(folder).as_posix(), file.tell(), digest)


def write_manifest(
    folder: Path, step: int, world_size: int, meta: Mapping[str, object], files: Sequence[PayloadFile]
) -> None:
    """Write the manifest and force it and every folder beneath to disk."""
    content = {"schema": _SCHEMA, "step": step, "world_size": world_size, "meta": dict(meta)}
    content = json.loads(json.dumps(content | {"files": [asdict(file) for file in files]}))
    with HashedFile(folder / MANIFEST) as file:
        file.write(json.dumps(content | {"sha256": _digest(content)}, indent=1).encode())
    for parent, _, _ in os.walk(folder):
        sync_folder(Path(parent))


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def step_folders(checkpoints: Path) -> list[tuple[int, Path]]:
    """Folders named step-N with their N, newest first, whole or not; links are not followed."""
    if not checkpoints.is_dir():
        return []
    with os.scandir(checkpoints) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    steps = [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]
    return [(step, checkpoints / f"step-{step}") for step in sorted(steps, reverse=True)]


def read_checkpoint(folder: Path, verify_hash: bool) -> Checkpoint:
    """The checkpoint in `folder`.

    Raises:
        BrokenError: the manifest or a file is missing, unreadable, or not as it was written. File
            contents are compared only with `verify_hash`, sizes always.
    """
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        if content.get("schema") != _SCHEMA:
            raise BrokenError(f"{MANIFEST} has schema {content.get('schema')}, this version reads {_SCHEMA}")
        if content.pop("sha256", None) != _digest(content):
            raise BrokenError(f"{MANIFEST} was changed after it was written")
        if folder.is_symlink() or folder.name != f"step-{content['step']}":
            raise BrokenError(f"{MANIFEST} is of step {content['step']}")
        for file in content["files"]:
            _check_file(folder, PayloadFile(**file), verify_hash)
        if not (_is_count(content["step"]) and _is_count(content["world_size"])):
            raise BrokenError(f"{MANIFEST} does not tell its step and the ranks that wrote it as numbers")
        if not isinstance(content["meta"], dict):
            raise BrokenError(f"{MANIFEST} does not tell what it is a checkpoint of")
    except FileNotFoundError as error:
        raise BrokenError(f"{Path(error.filename).name} is missing") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BrokenError(f"{type(error).__name__}: {error}") from error
    return Checkpoint(content["step"], folder, content["world_size"], content["meta"])


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_file(folder: Path, expected: PayloadFile, verify_hash: bool) -> None:
    path = folder / expected.name
    size = os.lstat(path).st_size
    if path.is_symlink() or size != expected.bytes:
        raise BrokenError(f"{expected.name} has {size:,} bytes, expected {expected.bytes:,}")
    if verify_hash:
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected.sha256:
                raise BrokenError(f"{expected.name} differs from its sha256")


def checkpoint_size(folder: Path) -> int | None:
    """Bytes of a checkpoint whose files all have their sizes, else None."""
    try:
        read_checkpoint(folder, verify_hash=False)
    except BrokenError:
        return None
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def newest_size(checkpoints: Path) -> int:
    """Bytes of the newest checkpoint that is whole, an estimate of the next one; 0 where there is none."""
    sizes = (checkpoint_size(folder) for _, folder in step_folders(checkpoints))
    return next((size for size in sizes if size is not None), 0)
