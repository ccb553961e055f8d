"""Image files that a table names: below one folder, of a bounded size, as the bytes that they are."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from swamp_dist.errors import BadEntry, UserError
from swamp_dist.plain_files import NotPlainError, read_plain_file

NO_IMAGE, UNREADABLE = "no image", "image unreadable"
"""Kinds of BadEntry raised here."""
MOST_BYTES = 64 * 2**20
"""Of one image file: what a member of a shard may have."""


def image_path(path: str, place: str) -> str:
    """The path below the folder of the images in its one spelling: `./a//b` is `a/b`.

    Raises:
        UserError: it is empty, absolute, or has `..`.
    """
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or PureWindowsPath(path).is_absolute() or ".." in parts.parts:
        raise UserError(
            f"source.image: {place}: expected the path of an image below source.root, found {path[:80]!r}.\n"
            "Paths are relative and have no `..`: set source.root to a folder above all images."
        )
    return str(parts)


def read_image(root: Path, path: str, key: str) -> bytes:
    """The bytes of an image file below `root`.

    Raises:
        BadEntry: kind NO_IMAGE or UNREADABLE.
        UserError: a symbolic link leads out of `root`.
    """
    try:
        file = (root / path).resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        raise BadEntry(key, NO_IMAGE, f"{root / path}: no such file") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise BadEntry(key, UNREADABLE, f"{root / path}: {error}") from None
    if not file.is_relative_to(root.resolve()):
        raise UserError(
            f"entry {key!r}: {root / path} is a link to {file}, out of {root}.\n"
            "Only files below source.root are read: set it to a folder above both, or copy the images."
        )
    try:
        return read_plain_file(file, MOST_BYTES)
    except NotPlainError as error:
        raise BadEntry(key, UNREADABLE, f"{file}: {error}") from None
    except OSError as error:
        raise BadEntry(key, UNREADABLE, f"{file}: {error.strerror or error}") from None
