"""Published word vectors, read in one pass: only the wanted words are ever held.

Files: word2vec binary (`.bin`, as GoogleNews is published), text (`.txt`, `.vec`: GloVe, fastText), and
pruned pairs of words and vectors (`.npz`; the `.npy` of a shard set with its `.txt` beside it).
Vectors come back as stored, not of unit length. Where a word stands twice, the first vector counts.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from swamp_dist.errors import UserError
from swamp_dist.sources.word_pairs import read_npz, read_pair

CHUNK = 1 << 22
LONGEST_WORD = 4096
"""Bytes; a longer one means that the reader has lost its place in a damaged file."""
LONGEST_LINE = 1 << 20
WIDEST = 1 << 16

Floats = NDArray[np.float32]


class WordVectors(NamedTuple):
    """Vectors of the wanted words that a file has."""

    words: list[str]
    """V words in file order, each once."""
    vectors: Floats
    """(V, dim) float32, finite."""
    sha256: str
    """Of the whole file; of a .npy followed by its .txt where they are a pair."""


def read_vectors(path: Path, wanted: set[str], dim: int | None = None) -> WordVectors:
    """Vectors of the `wanted` words of a published file; memory is bounded by what is kept (a pruned
    `.npz` is held whole).

    Words that are not UTF-8 are skipped, with one warning that counts them.

    Args:
        path: the file; its suffix tells the format.
        wanted: words to keep, spelled as in the file.
        dim: the length that vectors must have; None = whatever the file has.

    Raises:
        UserError: absent, of an unknown format, damaged (with the byte where it stops making sense), of
            another dimension, or a wanted vector is not finite.
    """
    if path.suffix not in _READERS:
        raise UserError(
            f"{path}: not a known kind of word vectors.\nExpected one of {', '.join(_READERS)} "
            "(word2vec binary; text; a pruned pair); unpack a .gz or .zip first."
        )
    if not path.is_file():
        raise UserError(f"{path}: no word vectors there. Correct the path or download the file first.")
    found = _READERS[path.suffix](path, wanted)
    if dim is not None and found.vectors.shape[1] != dim:
        raise UserError(f"{path}: expected vectors of {dim} numbers, found {found.vectors.shape[1]}")
    return found


def _damage_error(path: Path, byte: int, what: str) -> UserError:
    return UserError(f"{path}: damaged at byte {byte:,}: {what}.\nCopy or download the file again.")


class _Kept:
    """The wanted words met so far, of vectors with `dim` numbers."""

    def __init__(self, path: Path, wanted: set[str], dim: int) -> None:
        self._path = path
        self._dim = dim
        self._missing = {spelled for word in wanted if (spelled := word.encode(errors="ignore"))}
        self.with_blanks = any(b" " in word for word in self._missing)
        self._words: list[str] = []
        self._vectors: list[Floats] = []
        self.undecodable = 0

    def wants(self, spelled: bytes) -> bool:
        return spelled in self._missing

    def add(self, spelled: bytes, vector: Floats, byte: int) -> None:
        if not np.isfinite(vector).all():
            word = spelled.decode()
            raise _damage_error(self._path, byte, f"the vector of {word!r} holds a number that is not finite")
        self._missing.discard(spelled)
        self._words.append(spelled.decode())
        self._vectors.append(vector)

    def count_undecodable(self, spelled: bytes) -> None:
        if not spelled.isascii():
            try:
                spelled.decode()
            except UnicodeDecodeError:
                self.undecodable += 1

    def result(self, sha256: str) -> WordVectors:
        if self.undecodable:
            logging.getLogger(__name__).warning(
                "%s: %d words are not UTF-8 and were skipped", self._path, self.undecodable
            )
        none = np.empty((0, self._dim), np.float32)
        return WordVectors(self._words, np.stack(self._vectors) if self._vectors else none, sha256)


class _Window:
    """A file read forward in chunks, hashed on the way; `byte` is the position of the next one."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._held, self._at, self._before = b"", 0, 0
        self.digest = hashlib.sha256()

    @property
    def byte(self) -> int:
        return self._before + self._at

    def _more(self) -> bool:
        chunk = self._file.read(CHUNK)
        self.digest.update(chunk)
        self._before += self._at
        self._held, self._at = self._held[self._at :] + chunk, 0
        return bool(chunk)

    def until(self, mark: bytes, longest: int, what: str) -> bytes:
        """The bytes before the next `mark`, which is passed over."""
        while (end := self._held.find(mark, self._at, self._at + longest)) < 0:
            if len(self._held) - self._at >= longest:
                raise _damage_error(self._path, self.byte, f"no {what} within {longest:,} bytes")
            if not self._more():
                raise _damage_error(self._path, self.byte + len(self._held), f"the file ends in {what}")
        found, self._at = self._held[self._at : end], end + 1
        return found

    def take(self, size: int, what: str) -> memoryview:
        """The next `size` bytes."""
        while len(self._held) - self._at < size:
            if not self._more():
                raise _damage_error(self._path, self.byte + len(self._held), f"the file ends in {what}")
        self._at += size
        return memoryview(self._held)[self._at - size : self._at]

    def rest(self) -> bytes:
        """What is left of a file that should be over: its first chunk at most."""
        while len(self._held) - self._at < CHUNK and self._more():
            pass
        return self._held[self._at :]


def _read_binary(path: Path, wanted: set[str]) -> WordVectors:
    """`<words> <dim>\\n`, then for each word: its bytes, a blank, dim little-endian float32; a newline may
    precede a word."""
    with path.open("rb") as file:
        window = _Window(path, file)
        header = _header(window.until(b"\n", 64, "the header `<words> <dim>`"))
        if header is None:
            raise _damage_error(path, 0, "expected the header `<words> <dim>` of a word2vec binary file")
        count, dim = header
        kept = _Kept(path, wanted, dim)
        for number in range(1, count + 1):
            what = f"word {number:,} of {count:,}"
            spelled = window.until(b" ", LONGEST_WORD, what).lstrip(b"\n")
            byte, raw = window.byte, window.take(4 * dim, what)
            if kept.wants(spelled):
                kept.add(spelled, np.frombuffer(raw, "<f4").astype(np.float32), byte)
            else:
                kept.count_undecodable(spelled)
        byte = window.byte
        if window.rest().strip(b"\n"):
            raise _damage_error(
                path, byte, f"bytes follow the last of the {count:,} words that the header names"
            )
        return kept.result(window.digest.hexdigest())


def _header(line: bytes) -> tuple[int, int] | None:
    """(words, dim) of a line of two whole numbers, the second no wider than vectors are."""
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return None
    count, dim = map(int, fields)
    return (count, dim) if 0 < dim <= WIDEST else None


def _lines(path: Path, file: BinaryIO, digest: hashlib._Hash) -> Iterator[tuple[int, bytes]]:
    """(position, line without its end) of every line."""
    byte = 0
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise _damage_error(path, byte, f"a line of more than {LONGEST_LINE:,} bytes")
        digest.update(line)
        yield byte, line.rstrip(b" \r\n")
        byte += len(line)


def _read_text(path: Path, wanted: set[str]) -> WordVectors:
    """A word and its numbers per line, after an optional line `<words> <dim>`; words may hold blanks.

    Without that line the first word has no blank: its line tells how many numbers there are.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        lines = _lines(path, file, digest)
        _, first = next(lines, (0, b""))
        header = _header(first)
        dim = header[1] if header else first.count(b" ")
        if dim == 0:
            raise _damage_error(path, 0, "expected a word and the numbers of its vector")
        kept = _Kept(path, wanted, dim)
        read = 0 if header else _keep_line(path, 0, first, dim, kept)
        for byte, line in lines:
            read += _keep_line(path, byte, line, dim, kept)
        if header and read != header[0]:
            raise _damage_error(
                path, file.tell(), f"the header names {header[0]:,} words, the file ends after {read:,}"
            )
        return kept.result(digest.hexdigest())


def _keep_line(path: Path, byte: int, line: bytes, dim: int, kept: _Kept) -> int:
    """Keep one line's vector if it is wanted; returns 1, the lines read."""
    if line.count(b" ") < dim:
        raise _damage_error(
            path, byte, f"expected a word and {dim} numbers, found {line.count(b' ') + 1} fields"
        )
    first = line[: line.index(b" ")]
    if not (kept.with_blanks or kept.wants(first)):  # spares most lines the splitting
        kept.count_undecodable(first)
        return 1
    spelled, *numbers = line.rsplit(b" ", dim)
    if kept.wants(spelled):
        try:
            vector = np.array([float(number) for number in numbers], np.float32)
        except ValueError:
            what = f"the vector of {spelled.decode()!r} holds something that is not a number"
            raise _damage_error(path, byte, what) from None
        kept.add(spelled, vector, byte)
    return 1


def _read_npz(path: Path, wanted: set[str]) -> WordVectors:
    return _prune(path, *read_npz(path), wanted, [path])


def _read_pair(path: Path, wanted: set[str]) -> WordVectors:
    return _prune(path, *read_pair(path), wanted, [path, path.with_suffix(".txt")])


def _prune(
    path: Path, words: Sequence[str], vectors: NDArray[np.generic], wanted: set[str], files: list[Path]
) -> WordVectors:
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or len(words) != len(vectors):
        raise UserError(
            f"{path}: expected one row of numbers per word, found {len(words)} words and an array "
            f"{vectors.dtype} of shape {vectors.shape}"
        )
    kept = _Kept(path, wanted - {""}, vectors.shape[1])  # "" is the padding row of a built table
    for row, word in enumerate(words):
        if kept.wants(spelled := word.encode(errors="ignore")):
            byte = row * vectors.strides[0]
            kept.add(spelled, np.array(vectors[row], np.float32), byte)
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            while chunk := opened.read(CHUNK):
                digest.update(chunk)
    return kept.result(digest.hexdigest())


_READERS: dict[str, Callable[[Path, set[str]], WordVectors]] = {
    ".bin": _read_binary,
    ".txt": _read_text,
    ".vec": _read_text,
    ".npz": _read_npz,
    ".npy": _read_pair,
}
