"""Headers and elements of npy files, read so that no bytes raise anything but a ValueError."""

from __future__ import annotations

import math
import sys
import tokenize
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np

_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_BROKEN = (tokenize.TokenError, SyntaxError, TypeError, KeyError, OverflowError, RecursionError, MemoryError)
"""What numpy's parser raises at damaged headers besides ValueError."""


class NpyHeader(NamedTuple):
    """What an npy file says of its array."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy_header(file: IO[bytes]) -> NpyHeader:
    """The header of an npy file of version 1.0 or 2.0; the file stands at its data afterwards.

    Raises:
        ValueError: it is another file.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in _READERS:
            raise ValueError(f"npy version {version}")
        header = NpyHeader(*_READERS[version](file))
    except _BROKEN as error:
        raise ValueError(f"its header cannot be read: {type(error).__name__}: {error}") from None
    if min(header.shape, default=0) < 0:
        raise ValueError(f"an array of shape {header.shape}")
    return header


def elements(data: bytes | bytearray, dtype: np.dtype[Any]) -> np.ndarray:
    """(n,) a read-only array over these bytes.

    Raises:
        ValueError: they are no whole elements, texts with numbers that are no letters, or truth values other
            than 0 and 1: numpy would take them, and fail when they are used.
    """
    if not data:
        return np.empty(0, dtype)
    flat = np.frombuffer(data, dtype)
    if dtype.kind == "U" and flat.view(np.dtype("u4").newbyteorder(dtype.byteorder)).max() > sys.maxunicode:
        raise ValueError(f"{dtype} with numbers that are no letters")
    if dtype.kind == "b" and flat.view(np.uint8).max() > 1:
        raise ValueError("truth values other than 0 and 1")
    return flat


def map_npy(path: Path, start: int = 0, size: int | None = None) -> np.ndarray:
    """The array of an npy file, memory-mapped and read-only; or of one that is part of a file.

    Args:
        start: byte of the file at which the npy file begins.
        size: its bytes; None: up to the end of the file.

    Raises:
        ValueError: as `read_npy_header`, or it holds objects, or has another length than its header says.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        whole = path.stat().st_size
        size = whole - start if size is None else size
        file.seek(start)
        header = read_npy_header(file)
        data = file.tell()
    found = min(start + size, whole) - data
    if header.dtype.hasobject or found != header.bytes:
        raise ValueError(f"{found} bytes of data for {header.dtype} {header.shape}")
    order: Literal["F", "C"] = "F" if header.fortran else "C"
    array: np.ndarray = np.memmap(path, header.dtype, "r", offset=data, shape=header.shape, order=order)
    return array


class NpyRows:
    """The rows of an npy file, read one by one: no more of it than a row is ever in memory, mapped or not."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            ValueError: as `map_npy`, or the array has no rows of their own (0 axes, Fortran's order).
            OSError: it cannot be opened.
        """
        with path.open("rb") as file:
            header = read_npy_header(file)
            self._start = file.tell()
        found = path.stat().st_size - self._start
        if header.dtype.hasobject or found != header.bytes:
            raise ValueError(f"{found} bytes of data for {header.dtype} {header.shape}")
        if not header.shape or (header.fortran and len(header.shape) > 1):
            raise ValueError(f"{header.dtype} {header.shape} with Fortran order {header.fortran}")
        self.path, self.shape, self.dtype = path, header.shape, header.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> np.ndarray:
        """A copy of row number `row`, from 0.

        Raises:
            ValueError: the file was cut since.
            OSError: it cannot be read.
        """
        count = math.prod(self.shape[1:])
        offset = self._start + row * count * self.dtype.itemsize
        values: np.ndarray = np.fromfile(self.path, self.dtype, count, offset=offset)
        return values.reshape(self.shape[1:])
