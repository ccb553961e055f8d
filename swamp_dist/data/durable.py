"""Files that are whole or not there: hashed as they are written, synced to disk, renamed into place."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


class HashedFile:
    """A new file that is hashed as it is written and synced to disk when closed."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("xb")
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):  # a full disk refuses the rest of the buffer once more
                self._file.close()
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def write(self, data: bytes) -> int:
        """Append `data`."""
        self._sha256.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    @property
    def digest(self) -> str:
        """sha256 of what was written."""
        return self._sha256.hexdigest()


@contextlib.contextmanager
def renamed_into_place(path: Path, scratch: Path) -> Iterator[HashedFile]:
    """A file written under a name of this process in `scratch`, which gets `path` when it is whole.

    Processes that write the same file at once do not disturb each other; the last one's bytes stay.
    """
    own = scratch / f"{_owner()}.{path.name}"
    own.unlink(missing_ok=True)
    try:
        with HashedFile(own) as file:
            yield file
        own.replace(path)
    except BaseException:
        own.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_left_over(scratch: Path) -> None:
    """Remove the files that processes of this host left in `scratch` when they were killed."""
    host = f"{socket.gethostname()}+"
    for path in scratch.glob("*"):
        if path.name.startswith(host) and not _alive(int(path.name.removeprefix(host).partition(".")[0])):
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Sync a folder's list of names to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _owner() -> str:
    return f"{socket.gethostname()}+{os.getpid()}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        return True
    return True
