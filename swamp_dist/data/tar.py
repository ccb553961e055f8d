"""Walks tar files by hand: every header is checked, nothing is extracted, damage is never the end.

A tar reader in stream mode takes a damaged header for the end of the archive, so that one flipped bit
loses the rest of a shard without an error. Here the end is two zero blocks and nothing after them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple, Protocol

BLOCK = 512
MAX_MEMBER_BYTES = 64 * 2**20
"""A larger member is refused from its header, before it is read."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*\.[a-z0-9_]+\.(npy|json|txt|jpg|png|webp)")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
"""How files of gzip, bzip2, xz and zstd begin."""
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*")


class TarFault(ValueError):
    """A tar file that is not as the writer left it; the message says what and at which byte."""


class ByteSource(Protocol):
    """Bytes from front to back: an open file, or `InMemory`."""

    def read(self, size: int, /) -> bytes | memoryview:
        """The next `size` bytes, fewer at the end."""


class InMemory:
    """Bytes that are in memory already, handed out without a copy."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def read(self, size: int, /) -> memoryview:
        """As `ByteSource`; views of the bytes."""
        start, self._position = self._position, self._position + size
        return self._data[start : self._position]


class Bounded:
    """An open file of which no more is read than it is known to have."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = self._left = size

    def read(self, size: int, /) -> bytes:
        """As `ByteSource`; TarFault where the file goes on after its last byte."""
        if not self._left and self._file.read(1):
            raise TarFault(f"the file goes on after byte {self._size}, where the manifest has it end")
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data


class Member(NamedTuple):
    """One file of a tar: KEY.suffix, where its header starts, its bytes."""

    key: str
    suffix: str
    offset: int
    payload: bytes | memoryview


def walk(file: ByteSource, whole: bool) -> Iterator[Member]:
    """Members of a tar from the file's position on, in order.

    Args:
        file: the open tar, or one entry's bytes of it.
        whole: the file is a whole archive, which must end in two zero blocks and nothing else;
            otherwise it ends after the last member.

    Raises:
        TarFault: at the first byte that is not as the writer left it.
    """
    offset = 0
    while block := bytes(file.read(BLOCK)):
        if block == bytes(BLOCK):
            return _check_end(file, offset, whole)
        key, suffix, size = _parse_header(block, offset)
        padded = -(-size // BLOCK) * BLOCK
        data = file.read(padded)
        if len(data) != padded:
            raise TarFault(f"the file ends inside {key}.{suffix} (header at byte {offset})")
        yield Member(key, suffix, offset, data[:size])
        offset += BLOCK + padded
    if whole:
        raise TarFault(f"the file is cut at byte {offset}: no end-of-archive blocks")
    return None


def _parse_header(block: bytes, offset: int) -> tuple[str, str, int]:
    if len(block) < BLOCK:
        raise TarFault(f"the file ends inside a header at byte {offset}")
    checksum = _sum_of_bytes(block) - sum(block[148:156]) + 8 * ord(" ")  # its own field counts as blanks
    if block[148:156] != b"%06o\0 " % checksum:
        if not offset and block.startswith(_COMPRESSED):
            raise TarFault("the file is compressed; shards are plain tars, which are never unpacked")
        raise TarFault(f"damaged header at byte {offset}: its checksum does not match")
    if block[257:262] != b"ustar" or block[156:157] not in (b"0", b"\0") or block[345:346] != b"\0":
        raise TarFault(f"member at byte {offset} is not a plain file with a short name (a link or folder?)")
    name = block[:100].rstrip(b"\0").decode("ascii", errors="replace")
    if not _NAME.fullmatch(name):
        endings = "(or json, txt, jpg, png, webp)"
        raise TarFault(f"member name {name!r} at byte {offset} is not KEY.FIELD.npy {endings}")
    size = _octal(block[124:136], offset)
    if size > MAX_MEMBER_BYTES:
        raise TarFault(f"{name} at byte {offset} claims {size} bytes; the limit is {MAX_MEMBER_BYTES}")
    key, _, suffix = name.partition(".")
    return key, suffix, size


def _sum_of_bytes(block: bytes) -> int:
    """Of 512 bytes; those of text are summed by zlib, thirty times as fast: the low half of adler32 is one
    more than the sum, modulo 65,521, which 512 bytes below 128 cannot reach."""
    return (zlib.adler32(block) & 0xFFFF) - 1 if block.isascii() else sum(block)


def _octal(field: bytes, offset: int) -> int:
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise TarFault(f"damaged header at byte {offset}: {field!r} is not a number")
    return int(match[1], 8)


def _check_end(file: ByteSource, offset: int, whole: bool) -> None:
    if not whole:
        raise TarFault(f"zero block in place of a header at byte {offset}")
    position, zeros = offset + BLOCK, 1
    while chunk := bytes(file.read(BLOCK)):
        if chunk.strip(b"\0"):
            raise TarFault(f"bytes that belong to no entry, at byte {position}")
        position, zeros = position + len(chunk), zeros + 1
    if zeros < 2 or position % BLOCK:
        raise TarFault(f"the end of the archive is cut at byte {position}")
