"""Members of tars that others wrote, from their headers alone: nothing is extracted, no content is read.

The headers are those of POSIX.1-1988 (ustar), POSIX.1-2001 (pax) and GNU tar. Sizes are compared with the
file before anything is skipped, so that every step leads forwards; names and pax records are read up to
bounds.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from swamp_dist.errors import UserError
from swamp_dist.plain_files import NotPlainError, open_plain_file

BLOCK = tarfile.BLOCKSIZE
_MOST_NAME_BYTES = 2**16
"""Of a long name or of pax records."""
_CHUNK = 2**20
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip -k"),
    b"BZh": ("bzip2", "bunzip2 -k"),
    b"\xfd7zXZ\0": ("xz", "unxz -k"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
"""How compressed files begin, what they are, and what unpacks them."""
_PAX_RECORD = re.compile(rb"(\d{1,6}) ([^=\n]+)=")


class TarMember(NamedTuple):
    """One member of a tar."""

    name: str
    """As the tar has it; bytes that are no UTF-8 are written out as `\\xff`."""
    kind: str
    """`file`, `folder`, or in words what else it is."""
    offset: int
    """Of its content."""
    size: int


@dataclass
class _Said:
    """What extended headers say of the next member."""

    name: str | None = None
    size: int | None = None
    is_sparse: bool = False


def tar_members(path: Path) -> Iterator[TarMember]:
    """All members of a tar, in order; the file is passed once from front to back.

    Raises:
        UserError: it is absent, compressed, damaged or cut; names the byte and the fix.
    """
    try:
        file = open_plain_file(path)
    except (FileNotFoundError, NotPlainError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else error
        raise UserError(f"{path}: expected a tar: {found}") from None
    with file:
        yield from _Walk(path, file).members()


class _Walk:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._bytes = file.seek(0, 2)
        self._offset = file.seek(0)

    def members(self) -> Iterator[TarMember]:
        said = _Said()
        while (block := self._read(BLOCK, "a header")) != bytes(BLOCK):
            header = self._parse(block)
            size = header.size
            if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                self._hear_pax(self._content(size), said)
                continue
            if header.type == tarfile.GNUTYPE_LONGNAME:
                said.name = _text(self._content(size).rstrip(b"\0"))
                continue
            if header.type in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
                self._skip(size)
                continue
            size = size if said.size is None else said.size
            kind = "a sparse file" if said.is_sparse else _kind(header)
            name, said = said.name or header.name, _Said()
            start = self._offset
            has_content = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
            self._skip(size if has_content else 0, name)
            yield TarMember(name, kind, start, size)
        self._check_end()

    def _parse(self, block: bytes) -> tarfile.TarInfo:
        start = self._offset - BLOCK
        if not start:
            for magic, (what, command) in _COMPRESSED.items():
                if block.startswith(magic):
                    raise UserError(
                        f"{self._path}: it is compressed ({what}); entries are read by their place in plain "
                        f"tars.\nUnpack it with {command} {self._path.name}, and name the .tar in the recipe."
                    )
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except (tarfile.HeaderError, ValueError, OverflowError) as error:
            self._refuse(f"no header of a tar at byte {start:,}: {error}")
        if header.size < 0:
            self._refuse(f"the header at byte {start:,} claims {header.size} bytes")
        return header

    def _hear_pax(self, content: bytes, said: _Said) -> None:
        """Records `LENGTH KEY=VALUE\\n`, of which names and sizes matter."""
        position = 0
        while position < len(content) and content[position]:
            record = _PAX_RECORD.match(content, position)
            end = position + int(record[1]) if record else 0
            if record is None or not record.end() < end <= len(content) or content[end - 1 : end] != b"\n":
                self._refuse(f"damaged pax records before byte {self._offset:,}")
            key, value = record[2], content[record.end() : end - 1]
            if key == b"path":
                said.name = _text(value)
            elif key == b"size":
                if not re.fullmatch(rb"\d{1,18}", value):
                    self._refuse(
                        f"the pax records before byte {self._offset:,} claim a size of {value[:20]!r}"
                    )
                said.size = int(value)
            said.is_sparse |= key.startswith(b"GNU.sparse")
            position = end

    def _content(self, size: int) -> bytes:
        if size > _MOST_NAME_BYTES:
            self._refuse(f"a name of {size:,} bytes at byte {self._offset:,}; {_MOST_NAME_BYTES:,} may be")
        padded = _padded(size)
        return self._read(padded, "a name")[:size]

    def _skip(self, size: int, name: str = "a header") -> None:
        end = self._offset + _padded(size)
        if end > self._bytes:
            self._refuse(
                f"it is cut: {name[:80]!r} at byte {self._offset:,} has {size:,} bytes, and the file ends at "
                f"byte {self._bytes:,}"
            )
        self._offset = self._file.seek(end)

    def _read(self, size: int, what: str) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            ends = "no end of the archive" if not data else f"the file ends inside {what}"
            self._refuse(f"it is cut at byte {self._offset + len(data):,}: {ends}")
        self._offset += size
        return data

    def _check_end(self) -> None:
        """After the first block of zeros nothing else stands."""
        end = self._offset - BLOCK
        while chunk := self._file.read(_CHUNK):
            if chunk.strip(b"\0"):
                self._refuse(f"bytes behind its end at byte {end:,} (are several tars in one file?)")

    def _refuse(self, finding: str) -> NoReturn:
        raise UserError(
            f"{self._path}: {finding}.\n"
            "The file is damaged or no plain tar: copy it again, or leave it out of the recipe."
        )


def _kind(header: tarfile.TarInfo) -> str:
    if header.type == tarfile.GNUTYPE_SPARSE:
        return "a sparse file"
    if header.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
        return "file"
    if header.isdir():
        return "folder"
    return "a link" if header.issym() or header.islnk() else "a device or something else"


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
