"""Which raw files a set was made of: a hash that changes when they do."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from swamp_dist.errors import UserError

_ENDS = 2**20
_TEXTS = (".csv", ".tsv", ".jsonl", ".json", ".txt")


def files_sha256(files: Sequence[Path]) -> str:
    """sha256 over the files: tables and lists in text whole, others by their size and first and last MiB.

    Raises:
        FileNotFoundError: one is absent.
    """
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{size}\n".encode())
        with path.open("rb") as file:
            if path.suffix.lower() not in _TEXTS and size > 2 * _ENDS:
                digest.update(file.read(_ENDS))
                file.seek(size - _ENDS)
            while chunk := file.read(_ENDS):
                digest.update(chunk)
    return digest.hexdigest()


def check_files(files: Sequence[Path], expected: str | None) -> None:
    """Refuse files other than those of the recipe, or of the start of this build.

    Raises:
        UserError: says both hashes.
    """
    if expected is None or not all(path.is_file() for path in files):  # opening them says what is missing
        return
    found = files_sha256(files)
    if found != expected:
        names = ", ".join(path.name for path in files[:4]) + (", ..." if len(files) > 4 else "")
        raise UserError(
            f"source.sha256: expected {expected} for {names}; the files have {found}.\n"
            "They were changed since the build began, or are not those of the recipe: run the command again, "
            "or correct source.sha256 (null takes any)."
        )
