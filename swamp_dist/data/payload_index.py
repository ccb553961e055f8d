"""The payload index of a split: where the bytes of every field lie in the shards, and their checksums.

With it an entry is read without a look at its tar headers or its json: a checksum of every field that is
wanted, and one of all bytes between the fields, say that the entry is the one that was indexed. So no row
of this file is trusted, and a wrong one is an error when its entry is read. The manifest names the file, but
its hash leaves it out: a set is the same set with and without it.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import xxhash

from swamp_dist.data.entry import decode_entry, member_suffix, shard_error
from swamp_dist.data.manifest import FieldSpec, SplitIndex, index_hint
from swamp_dist.data.raw_fields import ENTRY
from swamp_dist.data.tar import BLOCK, InMemory, Member, TarFault, walk
from swamp_dist.errors import UserError
from swamp_dist.npy_files import map_npy

Span = tuple[int, int]
"""First byte and one past the last of a payload, within its entry."""
EntryRow = tuple[str, int, int, int]
"""Key, offset, size and class of an entry."""


def payload_dtype(fields: Collection[str]) -> np.dtype:
    """A row: `frame`, xxh3 of what is around the fields (`frame_xxh3`), and `payloads` (fields,), offset and
    size within the shard and xxh3 of each field, fields by name from a to z."""
    one = [("offset", "<u8"), ("size", "<u8"), ("xxh3", "<u8")]
    return np.dtype([("frame", "<u8"), ("payloads", one, (len(fields),))])


def payload_file(split: str) -> str:
    """Name of the file."""
    return f"{split}.payloads.npy"


def frame_xxh3(key: str, label: int, entry: memoryview, spans: Sequence[Span]) -> int:
    """xxh3 of key and class as the index of the split has them, and of an entry's bytes outside these spans,
    which are in order: tar headers, json and padding."""
    digest, end = xxhash.xxh3_64(f"{key} {label}".encode()), 0
    for first, last in spans:
        digest.update(entry[end:first])
        end = last
    digest.update(entry[end:])
    return digest.intdigest()


def index_payloads(path: Path, rows: Sequence[EntryRow], specs: Mapping[str, FieldSpec]) -> np.ndarray:
    """(entries,) rows of `payload_dtype` of a shard, each from an entry that was read and checked whole.

    Raises:
        ShardError: an entry is damaged or not the one in its row. OSError: the file cannot be read.
    """
    found = np.zeros(len(rows), payload_dtype(specs))
    with path.open("rb") as file:
        for number, (key, offset, size, label) in enumerate(rows):
            file.seek(offset)
            data = memoryview(file.read(size))
            try:
                members = list(walk(InMemory(data), whole=False))
            except TarFault as fault:
                raise shard_error(path, key, f"{fault} of the entry, which starts at byte {offset}") from None
            places = _places(path, key, label, members, specs)
            spans = sorted((start, start + length) for start, length, _ in places)
            moved = [(offset + start, length, digest) for start, length, digest in places]
            found[number] = (frame_xxh3(key, label, data, spans), moved)
    return found


def _places(
    path: Path, key: str, label: int, members: Sequence[Member], specs: Mapping[str, FieldSpec]
) -> list[tuple[int, int, int]]:
    """Offset within the entry, size and xxh3 of every field, by name from a to z."""
    by_suffix = {member.suffix: member for member in members}
    payloads = {suffix: member.payload for suffix, member in by_suffix.items()}
    decode_entry(payloads, -1, key, label, specs, tuple(specs), path)
    if len(by_suffix) != len(members) or any(member.key != key for member in members):
        raise shard_error(path, key, "mispaired: members of another entry or twice the same stand in it")
    if members[0].suffix != ENTRY:
        raise shard_error(path, key, f"{ENTRY} is not its first member, as every writer of sets has it")
    fields = (by_suffix[member_suffix(payloads, name, specs[name])] for name in sorted(specs))
    return [(f.offset + BLOCK, len(f.payload), xxhash.xxh3_64_intdigest(f.payload)) for f in fields]


def pack_rows(rows: np.ndarray) -> str:
    """The rows of a shard as text, for its sidecar."""
    return base64.b64encode(rows.tobytes()).decode("ascii")


def unpack_rows(text: str, fields: Collection[str], entries: int) -> np.ndarray | None:
    """(entries,) the rows of `pack_rows`; None where the text holds no such rows."""
    dtype = payload_dtype(fields)
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:  # binascii's own among them, and that of text beyond ASCII
        return None
    return np.frombuffer(content, dtype) if len(content) == entries * dtype.itemsize else None


def read_payloads(split: SplitIndex, specs: Mapping[str, FieldSpec]) -> np.ndarray:
    """(entries,) rows of `payload_dtype`, memory-mapped, of a split that has them.

    Raises:
        UserError: the file that the manifest names is missing, torn or of another shape.
    """
    assert split.record.payloads is not None
    path = split.folder / split.record.payloads.file
    try:
        return map_payloads(path, len(split), specs)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error_words(error)}.\n{index_hint(split.folder)}") from None


def map_payloads(path: Path, entries: int, specs: Mapping[str, FieldSpec]) -> np.ndarray:
    """(entries,) rows of `payload_dtype`, memory-mapped.

    Raises:
        ValueError: the file is torn or of another shape. OSError: it cannot be read.
    """
    rows, dtype = map_npy(path), payload_dtype(specs)
    if rows.dtype != dtype or rows.shape != (entries,):
        raise ValueError(f"{rows.shape} rows of {rows.dtype}, expected {(entries,)} of {dtype}")
    return rows.view(np.ndarray)


def error_words(error: Exception) -> str:
    """Why a payload index cannot be read."""
    missing = isinstance(error, FileNotFoundError)
    return "missing" if missing else f"cannot be read as a payload index ({error})"
