"""Checks a shard set byte by byte and names every bad file, going on after the first.

Headers are walked by hand: a stream reader of tar files takes a damaged header for the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path

from swamp_dist.data.entry import ShardError, decode_entry
from swamp_dist.data.index_file import index_fault
from swamp_dist.data.manifest import (
    FieldSpec,
    IndexFile,
    Manifest,
    ShardFile,
    SplitIndex,
    read_manifest,
    size_fault,
)
from swamp_dist.data.payload_index import EntryRow, error_words, index_payloads, map_payloads
from swamp_dist.data.tar import BLOCK, Member, TarFault, walk

Row = tuple[bytes, int, int, int, int]
"""Key, shard, offset, size and class of an entry, as the index holds them."""


@dataclass(frozen=True)
class ShardProblem:
    """A file that is not what the manifest promises."""

    split: str | None
    """None for a file of the whole set: the word table, the vocabulary, names and vectors of classes."""
    file: str
    reason: str

    is_payload_index: bool = False
    """`swamp shards index` writes such a file again from sound shards."""

    def __str__(self) -> str:
        """For example `train-000001.tar (split train): missing`."""
        where = self.file if self.split is None else f"{self.file} (split {self.split})"
        return f"{where}: {self.reason}"


def verify_shards(folder: Path) -> list[ShardProblem]:
    """Every bad file of a shard set with the first fault found in it; an empty list is a sound set.

    Compared with the manifest: size and sha256 of every shard, index and table beside them. Compared
    with the indexes: keys, classes, offsets and number of entries, places and checksums of fields. In every
    entry: tar headers, its own key, field checksums, dtypes and shapes. One shard's largest entry is held in
    memory at a time.

    Raises:
        UserError: the manifest is missing or does not match its own hash, so nothing can be compared.
    """
    manifest = read_manifest(folder)
    problems = list(_table_problems(manifest))
    return problems + [problem for name in manifest.splits for problem in _split_problems(manifest, name)]


def _table_problems(manifest: Manifest) -> Iterator[ShardProblem]:
    """Of the files beside the shards."""
    record, files = manifest.record, list[tuple[str, str, int | None]]()
    if (words := record.words) is not None:
        files += [(words.file, words.sha256, words.bytes), (words.words_file, words.words_sha256, None)]
    if record.vocabulary is not None:
        files.append((record.vocabulary.file, record.vocabulary.sha256, None))
    if (names := record.class_names) is not None:
        files.append((names.file, names.sha256, None))
        if names.vectors is not None:
            files.append((names.vectors.file, names.vectors.sha256, None))
    for name, digest, size in files:
        fault = _table_fault(manifest.folder / name, digest, size)
        if fault is not None:
            yield ShardProblem(None, name, fault)


def _table_fault(path: Path, digest: str, size: int | None) -> str | None:
    fault = "missing" if not path.is_file() else None if size is None else size_fault(path, size)
    if fault is None and _sha256(path) != digest:
        return "sha256 differs from the manifest"
    return fault


def _split_problems(manifest: Manifest, name: str) -> Iterator[ShardProblem]:
    split = manifest.split(name)
    reason = _index_fault(split)
    if reason is not None:
        yield ShardProblem(name, split.record.index.file, reason)
    first, sound = 0, list[tuple[int, int]]()
    for number, shard in enumerate(split.record.shards):
        rows = split.rows[first : first + shard.entries].tolist() if reason is None else None
        fault = shard_fault(split.shard_path(number), shard, rows, number, manifest.fields)
        if fault is not None:
            yield ShardProblem(name, shard.file, fault)
        else:
            sound.append((number, first))
        first += shard.entries
    if split.record.payloads is not None:
        problem = _payload_problem(split, split.record.payloads, manifest.fields, [] if reason else sound)
        if problem is not None:
            yield problem


def _payload_problem(
    split: SplitIndex, record: IndexFile, specs: dict[str, FieldSpec], sound: list[tuple[int, int]]
) -> ShardProblem | None:
    """What is wrong with a payload index, or with a shard that none can be made of; `sound`: numbers of
    shards with the first row of each."""
    path = split.folder / record.file
    bad = partial(ShardProblem, split.name, record.file, is_payload_index=True)
    try:
        payloads, digest = map_payloads(path, len(split), specs), _sha256(path)
    except (OSError, ValueError) as error:
        return bad(reason=error_words(error))
    for number, first in sound:
        shard = split.record.shards[number]
        rows = entry_rows(split, first, first + shard.entries)
        shard_path = split.shard_path(number)
        try:
            expected = index_payloads(shard_path, rows, specs)
        except (OSError, ShardError) as error:
            finding = str(error).splitlines()[0].removeprefix(f"{shard_path}, ")
            return ShardProblem(split.name, shard.file, f"no payload index can be made of it: {finding}")
        differs = payloads[first : first + shard.entries] != expected
        if differs.any():
            row = int(differs.argmax())
            return bad(reason=f"row {first + row} (entry {rows[row][0]!r}) does not agree with {shard.file}")
    return None if digest == record.sha256 else bad(reason="sha256 differs from the manifest")


def entry_rows(split: SplitIndex, first: int, last: int) -> list[EntryRow]:
    """Key, offset, size and class of the entries first .. last - 1 of a split whose index is sound."""
    rows = split.rows[first:last].tolist()
    return [(key.decode("ascii"), offset, size, label) for key, _, offset, size, label in rows]


def _index_fault(split: SplitIndex) -> str | None:
    path = split.folder / split.record.index.file
    if not path.is_file():
        return "missing"
    try:
        return index_fault(path, split.record)
    except (OSError, ValueError) as error:
        return f"cannot be read as an index ({error})"


def shard_fault(
    path: Path, shard: ShardFile, rows: list[Row] | None, number: int, specs: dict[str, FieldSpec]
) -> str | None:
    """What is wrong with shard number `number`, or None; `rows`: its rows of a sound index.

    The most telling fault is told: a wrong size with where it breaks, else the first bad entry, else a hash
    that differs although every entry is sound.
    """
    size = size_fault(path, shard.bytes)
    if size == "missing":
        return size
    try:
        _walk_shard(path, shard, rows, number, specs)
        content = None
    except TarFault as fault:
        content = str(fault)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if size is not None or content is not None:
        return "; ".join(reason for reason in (size, content) if reason is not None)
    return None if _sha256(path) == shard.sha256 else "sha256 differs from the manifest"


def _walk_shard(
    path: Path, shard: ShardFile, rows: list[Row] | None, number: int, specs: dict[str, FieldSpec]
) -> None:
    count = 0
    with path.open("rb") as file:
        for key, group in groupby(walk(file, whole=True), key=lambda member: member.key):
            members = list(islice(group, len(specs) + 2))  # one more than there can be
            label = None if rows is None else _check_place(key, members, number, rows[count : count + 1])
            _check_content(path, key, members, label, specs)
            count += 1
    if count != shard.entries:
        raise TarFault(f"{count} entries, the manifest says {shard.entries}")


def _check_place(key: str, members: list[Member], number: int, row: list[Row]) -> int:
    """Compare an entry's key and bytes with its row of the index; the class number that the row gives."""
    size = sum(BLOCK + -(-len(member.payload) // BLOCK) * BLOCK for member in members)
    found = (key.encode("ascii"), number, members[0].offset, size)
    expected = row[0][:4] if row else "no further entry"
    if found != expected:
        raise TarFault(f"entry {key!r}: key, shard, offset, size are {found}; the index says {expected}")
    return row[0][4]


def _check_content(
    path: Path, key: str, members: list[Member], label: int | None, specs: dict[str, FieldSpec]
) -> None:
    by_suffix = {member.suffix: member.payload for member in members}
    if len(by_suffix) != len(members):
        raise TarFault(f"entry {key!r}: a member stands in it twice")
    try:
        decode_entry(by_suffix, -1, key, label, specs, tuple(specs), path)
    except ShardError as error:
        raise TarFault(str(error).splitlines()[0].removeprefix(f"{path}, ")) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
