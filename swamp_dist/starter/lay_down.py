"""Lays down the starting files in a folder, and never over a file that somebody changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from swamp_dist.atomic_files import write_atomically
from swamp_dist.errors import UserError
from swamp_dist.plain_files import read_plain_file
from swamp_dist.starter.files import starting_files

_MOST_BYTES = 2**20
"""No starting file is larger, so that a larger one is another."""


@dataclass(frozen=True)
class LaidDown:
    """What became of the files, each by its path below the folder."""

    written: tuple[Path, ...]
    changed: tuple[Path, ...]
    """Files of these names with another content: kept, or replaced where that was asked for."""
    same: tuple[Path, ...]


def lay_down(folder: Path, replace: bool = False) -> LaidDown:
    """Write the starting files that are not there.

    Args:
        replace: write over files of another content as well.

    Raises:
        UserError: something that is no folder stands where one is needed, or nothing may be written there;
            nothing was written.
        OSError: a file cannot be written; those before it stay, and the same call writes the rest.
    """
    files = starting_files()
    _refuse_obstacles(folder, files)
    found = {name: _content(folder / name) for name in files}
    written = [name for name in files if found[name] is None]
    same = [name for name, content in files.items() if found[name] == content]
    changed = [name for name in files if name not in written and name not in same]
    for name in [*written, *(changed if replace else ())]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, files[name])
    return LaidDown(tuple(written), tuple(changed), tuple(same))


def _refuse_obstacles(folder: Path, files: Mapping[Path, bytes]) -> None:
    """Ask for every folder and file before the first is written."""
    needed = dict.fromkeys([*reversed(folder.parents), folder, *((folder / name).parent for name in files)])
    in_the_way = [path for path in needed if path.exists() and not path.is_dir()]
    if in_the_way:
        raise UserError(f"{in_the_way[0]} is no folder, and swamp init needs one there; nothing was written")
    occupied = [folder / name for name in files if (folder / name).is_dir()]
    if occupied:
        raise UserError(f"{occupied[0]} is a folder; swamp init has a file there; nothing was written")
    place = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"you may not write in {place}; nothing was written.\n"
            "Mend its permissions, or name another folder: swamp init FOLDER"
        )


def _content(path: Path) -> bytes | None:
    """What stands in a file; None where there is none, nothing where it is no file of ours."""
    try:
        return read_plain_file(path, _MOST_BYTES)
    except FileNotFoundError:
        return None if not path.is_symlink() else b""
    except OSError:
        return b""
