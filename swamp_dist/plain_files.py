"""Files that others may have written, read without waiting for ever and without filling the memory.

A name can stand for a pipe that nobody writes to, a device without end, or JSON nested deeper than Python's
stack. What is opened here is a file, is read up to a size, and is parsed or refused.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotPlainError(OSError):
    """There is something, but no file of a size that may be read."""


def read_plain_file(path: Path, most_bytes: int) -> bytes:
    """The whole content of a file.

    Raises:
        FileNotFoundError: there is none.
        NotPlainError: it is no file (a pipe, a device), or larger than `most_bytes`.
        OSError: it cannot be read.
    """
    content = read_plain_tail(path, most_bytes + 1)
    if len(content) > most_bytes:
        raise NotPlainError(f"expected a file of at most {most_bytes:,} bytes, found a larger one")
    return content


def read_plain_tail(path: Path, most_bytes: int) -> bytes:
    """The last `most_bytes` of a file, all of a shorter one; raises as `read_plain_file`."""
    with open_plain_file(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - most_bytes))
        return file.read(most_bytes)


def open_plain_file(path: Path) -> BinaryIO:
    """A file, opened at its start for reading.

    Raises:
        FileNotFoundError: there is none.
        NotPlainError: it is no file (a pipe, a device).
        OSError: it cannot be opened.
    """
    try:
        # O_NONBLOCK: opening a pipe would wait for somebody to write to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except ValueError as error:  # a null byte in the name
        raise NotPlainError(str(error)) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = next((what for asks, what in _KINDS if asks(mode)), "something else")
        raise NotPlainError(f"expected a file, found {kind}")
    return open(descriptor, "rb")


def parse_json(content: bytes | str) -> object:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or nested too deep.
    """
    try:
        value: object = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value
