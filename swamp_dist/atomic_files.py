"""Files that are whole or not there: written beside their place, synced to disk, renamed.

A crash at any moment shows the old file or the new one. What a killed process was writing stays under its
temporary name until the next write of the same host removes it.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

_Answer = TypeVar("_Answer")
_BUFFER = 2**20
"""Bytes that are written at once. The page cache keeps a file in pieces as large as the writes that brought
it there; from those of 16 kB, in which a tar is written, it is read at a third of the speed."""


class HashedFile:
    """A new file that is hashed as it is written and synced to disk when closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("xb", buffering=_BUFFER)
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):  # a full disk refuses the rest of the buffer once more
                self._file.close()
            return
        with named(self._path), self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def write(self, data: bytes | memoryview) -> int:
        """Append `data`."""
        self._sha256.update(data)
        self.bytes += len(data)
        with named(self._path):
            return self._file.write(data)

    @property
    def digest(self) -> str:
        """sha256 of what was written."""
        return self._sha256.hexdigest()


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Put the path into an OSError of the block that names none: a full disk tells no name when it is
    written to."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a small file; text is UTF-8.

    Raises:
        OSError: it cannot be written; an older file at `path` stays.
    """
    with open_atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def open_atomically(path: Path, scratch: Path | None = None) -> Iterator[HashedFile]:
    """A new file that gets the name `path` at the end of the block.

    Args:
        scratch: folder of the same file system for the temporary file; the one of `path` by default.

    Raises:
        OSError: it cannot be written; an older file at `path` stays.
    """
    with _temporary_name(path, scratch) as temporary:
        with HashedFile(temporary) as file:
            yield file
        temporary.replace(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """A temporary name for a library to write to, whose file gets the name `path` at the end of the block.

    Raises:
        OSError: it cannot be written; an older file at `path` stays.
    """
    with _temporary_name(path) as temporary:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    sync_folder(path.parent)


class Sink:
    """A file that a library writes to, which remembers why the system refused a write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.refused: OSError | None = None

    def __enter__(self) -> Sink:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._of_the_system(self._file.close)

    def write(self, data: bytes) -> int:
        """Append `data`."""
        return self._of_the_system(lambda: self._file.write(data))

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._of_the_system(self._file.flush)

    def _of_the_system(self, action: Callable[[], _Answer]) -> _Answer:
        try:
            with named(self._path):
                return action()
        except OSError as error:
            self.refused = self.refused or error
            raise


def write_through(path: Path, write: Callable[[Any], object]) -> None:
    """Let a library write `path` that tells a refused write in no certain kind of error, as torch does.

    Args:
        write: called with a `Sink`, in the place of the library's file.

    Raises:
        OSError: the system refused to open, write or close the file; anything else is as `write` raised it.
    """
    sink = Sink(path)
    try:
        with sink:
            write(sink)
    except (OSError, RuntimeError):
        if sink.refused is None:
            raise
        raise sink.refused from None


def set_aside(path: Path) -> Path:
    """Rename a file or folder that stands in the way; its new name, NAME.aside-N. Nothing is lost.

    Raises:
        OSError: it cannot be renamed.
    """
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.aside-{number}")):
        number += 1
    path.rename(aside)
    return aside


def remove_left_over(scratch: Path) -> None:
    """Remove the files that processes of this host left in `scratch` when they were killed."""
    _remove_of_dead(scratch.glob(f"{glob.escape(socket.gethostname())}+*"))


def sync_folder(folder: Path) -> None:
    """Sync a folder's list of names to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temporary_name(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """A name of this process, so that processes that write the same file at once do not disturb each
    other; the last one's bytes stay. Nothing is left under it after the block."""
    folder, prefix = (path.parent, ".") if scratch is None else (scratch, "")
    host = f"{prefix}{socket.gethostname()}"
    _remove_of_dead(folder.glob(f"{glob.escape(host)}+*.{glob.escape(path.name)}"))
    own = folder / f"{host}+{os.getpid()}.{path.name}"
    try:
        own.unlink(missing_ok=True)
        yield own
    except OSError as error:  # is told of the file that was asked for
        if error.filename == str(own):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        own.unlink(missing_ok=True)


def _remove_of_dead(files: Iterable[Path]) -> None:
    """Remove those of the files, named HOST+PID.NAME, whose process has ended."""
    for path in files:
        pid = path.name.partition("+")[2].partition(".")[0]
        if pid.isdecimal() and not _is_alive(int(pid)):
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        return True
    return True
