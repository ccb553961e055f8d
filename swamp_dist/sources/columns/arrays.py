"""Arrays of `.npy` and `.npz` files, memory-mapped where they are stored as they are; no pickles."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from swamp_dist.errors import UserError
from swamp_dist.npy_files import elements, map_npy, read_npy_header
from swamp_dist.sources.columns.column import Array, Column, Wanted, array_column, no_column

MOST_UNPACKED, UNPACKED_SLACK = 32, 1 << 26
"""An array of a `.npz` may take so many times the bytes of the file, and so many bytes more."""
_LOCAL_HEADER = 30
"""Bytes of a member's header in a zip file before its name and extra field (APPNOTE.TXT 4.3.7)."""


def read_npy(path: Path) -> Column:
    """The array of an `.npy`, memory-mapped.

    Raises:
        UserError: it is absent or another file, holds objects, or is cut off.
    """
    try:
        array = _checked(map_npy(path))
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: not a readable array ({error}).") from None
    return array_column(path, "", array)


def read_npz(path: Path, wanted: dict[str, Wanted]) -> dict[str, Column]:
    """Arrays of an `.npz` by the keys of `wanted`: mapped, or read whole where they are compressed.

    Raises:
        UserError: it is absent or another file, lacks an array, or an array holds objects or would take far
            more memory than the file has bytes.
    """
    try:
        with zipfile.ZipFile(path) as file:
            found = [name.removesuffix(".npy") for name in file.namelist() if name.endswith(".npy")]
            arrays = {}
            for key, (name,) in ((key, each.names) for key, each in wanted.items()):
                if name not in found:
                    raise no_column(path, name, found)
                arrays[key] = array_column(path, name, _checked(open_member(path, file, f"{name}.npy")))
            return arrays
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise UserError(f"{path}: not a readable .npz without pickled objects ({error}).") from None


def open_member(path: Path, file: zipfile.ZipFile, name: str) -> Array:
    """One array of an open `.npz`; ValueError where it is none."""
    member = file.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        return unpack_member(path, file, name)
    with path.open("rb") as raw:
        raw.seek(member.header_offset)
        header = raw.read(_LOCAL_HEADER)
    if len(header) != _LOCAL_HEADER or header[:4] != b"PK\x03\x04" or member.flag_bits & 1:
        raise ValueError(f"{name} is not stored where the file says")
    name_bytes, extra_bytes = (int.from_bytes(header[n : n + 2], "little") for n in (26, 28))
    start = member.header_offset + _LOCAL_HEADER + name_bytes + extra_bytes
    return map_npy(path, start, member.file_size)


def unpack_member(path: Path, file: zipfile.ZipFile, name: str) -> Array:
    """One array of an open `.npz`, read into memory; ValueError where it is none or unpacks to too much."""
    size = file.getinfo(name).file_size
    if size > UNPACKED_SLACK + MOST_UNPACKED * path.stat().st_size:
        raise ValueError(f"{name} would unpack to {size:,} bytes")
    with file.open(name) as member:
        header = read_npy_header(member)
        if header.dtype.hasobject:
            raise ValueError(f"{name} holds {header.dtype}")
        data = member.read(header.bytes + 1)
    if len(data) != header.bytes:
        raise ValueError(f"{name}: {len(data)} bytes of data for {header.dtype} {header.shape}")
    return elements(data, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


def _checked(array: Array) -> Array:
    """The array, of a kind that no value of it makes fail; ValueError where it is not."""
    if array.dtype.kind in "Ub":
        return elements(array.tobytes(), array.dtype).reshape(array.shape)
    return array
