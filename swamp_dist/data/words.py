"""The frozen word vectors of a shard set: one memory-mapped file that every process of a host shares.

Word vectors are data, not weights: they stand in no module, no optimiser and no weights file. Entries
hold row numbers of this table; what a batch sends to its device are the vectors of its distinct words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from swamp_dist.atomic_files import HashedFile
from swamp_dist.data.manifest import Manifest, WordsRecord
from swamp_dist.errors import UserError
from swamp_dist.npy_files import map_npy
from swamp_dist.records import Words

WORDS_FILE = "words.npy"
WORD_LIST_FILE = "words.txt"
_ROWS_AT_A_TIME = 65_536
_LONGEST_WORD = 4097
"""Bytes of a word and its line end; published vectors have none longer."""


def check_table_hash(folder: Path, record: WordsRecord) -> None:
    """Compare a word table with the hash that its manifest names; about a second a GB.

    Raises:
        UserError: it is missing or has other bytes.
    """
    path = folder / record.file
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}).\n{_MEND}") from None
    if found != record.sha256:
        raise UserError(f"{path}: sha256 {found}, the manifest says {record.sha256}.\n{_MEND}")


@dataclass(frozen=True)
class WordTable:
    """Vectors of the words of a shard set, mapped read-only; a pickled copy maps the file again."""

    folder: Path
    record: WordsRecord

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "record": self.record}  # the page cache shares the file, not pickle

    @property
    def dim(self) -> int:
        """Values of one word vector."""
        return self.record.dim

    @cached_property
    def rows(self) -> np.ndarray:
        """(V + 1, dim) float32, memory-mapped: row 0 zeros, row i the vector of word i.

        Raises:
            UserError: the file is missing, damaged or of another shape.
        """
        path, expected = self.folder / self.record.file, (self.record.rows, self.record.dim)
        try:
            rows = map_npy(path)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: cannot be read as a table of word vectors ({error}).\n{_MEND}"
            ) from None
        if rows.dtype != np.float32 or rows.shape != expected:
            raise UserError(f"{path}: expected float32 {expected}, found {rows.dtype} {rows.shape}.\n{_MEND}")
        return rows

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words by row number; row 0, the padding, is the empty string.

        Raises:
            UserError: the file is missing or not the one that the manifest names.
        """
        path = self.folder / self.record.words_file
        try:
            with path.open("rb") as file:
                content = file.read(self.record.rows * _LONGEST_WORD)
            words = tuple(content.decode().split("\n")[:-1])  # no other line ends
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read as a list of words ({error}).\n{_MEND}") from None
        if len(words) != self.record.rows or words[0]:
            raise UserError(
                f"{path}: expected {self.record.rows} lines, the first empty; found {len(words)}.\n{_MEND}"
            )
        if hashlib.sha256(content).hexdigest() != self.record.words_sha256:
            raise UserError(f"{path}: sha256 differs from the manifest.\n{_MEND}")
        return words

    def batch(self, ids: np.ndarray) -> Words:
        """The words of b captions with the vectors of their distinct words only.

        Args:
            ids: (b, W) integers: rows of the table, 0 where a caption has fewer than W words.

        Returns:
            `ids` renumbered to rows of `vectors`, whose row 0 is zeros; words in the order of the table.

        Raises:
            UserError: a row that the table does not have.
        """
        import torch  # a build of shards needs this module and no torch

        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < len(self.rows):
            raise UserError(
                f"{self.folder / self.record.file}: word ids {int(ids.min())} to {int(ids.max())} in a "
                f"caption; expected 0 to {len(self.rows) - 1}.\n{_MEND}"
            )
        used = np.zeros(len(self.rows), dtype=bool)
        used[0] = True
        used[ids] = True
        distinct = np.flatnonzero(used)
        place = np.empty(len(self.rows), dtype=np.int64)  # only rows in use are written and read
        place[distinct] = np.arange(len(distinct))
        vectors = self.rows.view(np.ndarray).take(distinct, axis=0)  # half the time of an index
        return Words(torch.from_numpy(place[ids]), torch.from_numpy(vectors))


_MEND = "The file is damaged or not of this shard set. Copy it again or build the set again."


def open_words(manifest: Manifest) -> WordTable | None:
    """The word table of a shard set; None where it has none. Files are opened at the first use."""
    record = manifest.record.words
    return None if record is None else WordTable(manifest.folder, record)


def write_word_table(
    folder: Path,
    words: Sequence[str],
    vectors: np.ndarray,
    source_sha256: str,
    max_words: int,
    fields: tuple[str, ...] = ("text",),
) -> WordsRecord:
    """Write words.npy (float32, a row of zeros in front) and words.txt into `folder`, synced to disk.

    Args:
        folder: where the files go; they must not be there yet.
        words: (V) distinct words; word i gets row i + 1.
        vectors: (V, dim) float32, finite: the vector of each word.
        source_sha256: sha256 of the file of vectors that these were cut from.
        max_words: ids per caption.
        fields: fields of the entries that hold rows of this table.

    Raises:
        UserError: words and vectors do not fit each other, or a word is empty, repeated or holds a line
        break.
    """
    _check_words(words, vectors)
    rows, dim = len(vectors) + 1, int(vectors.shape[1])
    table = _write(folder / WORDS_FILE, _npy_bytes(vectors))
    listed = _write(folder / WORD_LIST_FILE, (f"{word}\n".encode() for word in ("", *words)))
    return WordsRecord(
        file=WORDS_FILE, words_file=WORD_LIST_FILE, sha256=table, words_sha256=listed, rows=rows, dim=dim,
        source_sha256=source_sha256, fields=fields, max_words=max_words,
    )  # fmt: skip


def _check_words(words: Sequence[str], vectors: np.ndarray) -> None:
    if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) != len(words) or not vectors.size:
        raise UserError(
            f"word table: expected float32 ({len(words)}, dim) with at least one word, "
            f"found {vectors.dtype} {vectors.shape}"
        )
    bad = [word for word in words if not word or "\n" in word]
    if bad or len(set(words)) != len(words):
        named = repr(bad[0]) if bad else "a word that stands twice"
        raise UserError(f"word table: expected distinct words without line breaks, found {named}")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise UserError(f"word table: the vector of {words[row]!r} is not finite")


def _npy_bytes(vectors: np.ndarray) -> Iterator[bytes]:
    """A plain npy 1.0 file with a row of zeros before `vectors`, without a second copy of them."""
    shape = (len(vectors) + 1, vectors.shape[1])
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(WordsRecord.HEADER - 11)
    yield b"\x93NUMPY\x01\x00" + (WordsRecord.HEADER - 10).to_bytes(2, "little") + header.encode() + b"\n"
    yield bytes(4 * vectors.shape[1])
    for start in range(0, len(vectors), _ROWS_AT_A_TIME):
        yield np.ascontiguousarray(vectors[start : start + _ROWS_AT_A_TIME], dtype="<f4").tobytes()


def _write(path: Path, parts: Iterable[bytes]) -> str:
    """Write and sync a new file; its sha256."""
    with HashedFile(path) as file:
        for part in parts:
            file.write(part)
    return file.digest
