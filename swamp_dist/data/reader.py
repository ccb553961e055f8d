"""Reads entries by index: by byte offset, shard by shard from front to back, or from memory.

All three give the same arrays for the same indices; they differ in what the storage must be able to do.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from swamp_dist.data.column import Column, make_column, without_the_rest
from swamp_dist.data.entry import Entry, decode_entry, shard_error
from swamp_dist.data.manifest import FieldSpec, Manifest, SplitIndex
from swamp_dist.data.raw_fields import raw_bytes
from swamp_dist.data.tar import Bounded, InMemory, TarFault, walk
from swamp_dist.errors import UserError

logger = logging.getLogger(__name__)
_OPEN_FILES = 128
Indices = Sequence[int] | np.ndarray
_Row = tuple[bytes, int, int, int, int]


class EntryReader(ABC):
    """Entries of one split by index, in any order. Open files belong to the process that opened them."""

    def __init__(self, split: SplitIndex, specs: Mapping[str, FieldSpec], fields: tuple[str, ...]) -> None:
        self.split = split
        self.specs = specs
        self.fields = fields

    @abstractmethod
    def read(self, indices: Indices) -> list[Entry]:
        """The entries at these indices, in their order.

        Raises:
            ShardError: an entry is not what index and manifest promise; names file, entry and field.
        """

    def each(self, indices: Indices) -> Iterator[Entry]:
        """As `read`, one after the other; the arrays of an entry are valid until the next one is asked
        for."""
        yield from self.read(indices)

    def columns(self, indices: Indices) -> dict[str, Column]:
        """Every field of the entries at these indices."""
        entries = self.read(indices)
        return {
            name: make_column([e.arrays[name] for e in entries], self.specs[name]) for name in self.fields
        }

    def stack(self, field: str, indices: Indices) -> np.ndarray:
        """(n, ...) one field of the entries, stacked; of a field with several items, equally many each; of a
        ragged field (n,) arrays, each an object."""
        if self.specs[field].ragged:
            return make_column([entry.arrays[field] for entry in self.read(indices)], self.specs[field]).rows
        return np.stack([entry.arrays[field] for entry in self.read(indices)])

    def misfit(self, index: int, finding: str, is_damaged: bool = True) -> UserError:
        """The error of an entry that was read and cannot be used: names split, file and entry; a ShardError
        where it is damaged."""
        path = self.split.shard_path(int(self.split.rows["shard"][index]))
        key = self.split.keys([index])[0]
        if is_damaged:
            return shard_error(path, key, finding)
        return UserError(f"split {self.split.name!r}, {path}, entry {key!r}: {finding}")

    def close(self) -> None:  # noqa: B027  (most readers hold nothing)
        """Give back open files and memory."""


def open_reader(
    manifest: Manifest,
    split: str,
    fields: Sequence[str],
    reading: Literal["seek", "stream"] = "seek",
    cache: Literal["none", "memory"] = "none",
    resident_shards: int = 2,
) -> EntryReader:
    """A reader of these fields of a split.

    Args:
        manifest: the shard set, from `load_manifest`.
        split: name of the split.
        fields: fields to decode; checksums of the others are not compared.
        reading: `seek` reads byte ranges; `stream` reads whole shards front to back.
        cache: `memory` decodes the whole split once, here.
        resident_shards: `stream` only: shards kept in memory, the least recently used leaves first.

    Raises:
        UserError: no such split or field, or the split's index is not the one that the manifest names.
        ShardError: with `cache = memory`, as `EntryReader.read`.
    """
    wanted = tuple(dict.fromkeys(fields))
    for name in wanted:
        manifest.field(name)
    index = manifest.split(split)
    _ = index.rows  # a bad index is told before the first batch
    reader: EntryReader
    if reading == "seek":
        reader = SeekReader(index, manifest.fields, wanted)
    else:
        reader = StreamReader(index, manifest.fields, wanted, resident_shards)
    return MemoryReader(reader) if cache == "memory" else reader


def _new_memory(size: int) -> memoryview:
    return memoryview(bytearray(size))


class SeekReader(EntryReader):
    """One positioned read per entry; every tar header inside it is checked."""

    def __init__(self, split: SplitIndex, specs: Mapping[str, FieldSpec], fields: tuple[str, ...]) -> None:
        super().__init__(split, specs, fields)
        self._files: OrderedDict[int, FileIO] = OrderedDict()
        self._memory = bytearray()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": OrderedDict(), "_memory": bytearray()}  # a process has its own

    def read(self, indices: Indices) -> list[Entry]:
        """One positioned read each."""
        rows = self.split.rows[np.asarray(indices, dtype=np.int64)].tolist()
        return [self._read_one(int(i), row, _new_memory) for i, row in zip(indices, rows, strict=True)]

    def each(self, indices: Indices) -> Iterator[Entry]:
        """Every entry is read into the same memory, which stays in cache: large entries cost half the
        time."""
        rows = self.split.rows[np.asarray(indices, dtype=np.int64)].tolist()
        for index, row in zip(indices, rows, strict=True):
            yield self._read_one(int(index), row, self._room)

    def _room(self, size: int) -> memoryview:
        if len(self._memory) < size:
            self._memory = bytearray(size)
        return memoryview(self._memory)[:size]

    def _read_one(self, index: int, row: _Row, room: Callable[[int], memoryview]) -> Entry:
        key, shard, offset, size, label = row
        path, name = self.split.shard_path(shard), key.decode("ascii")
        if size <= 0 or offset < 0 or offset + size > self.split.record.shards[shard].bytes:
            raise shard_error(
                path, name, f"the index points to bytes {offset} to {offset + size}, outside it"
            )
        view = room(size)
        data = view[: os.preadv(self._file(shard, path).fileno(), [view], offset)].toreadonly()
        if len(data) != size:
            raise shard_error(path, name, f"the file ends at byte {offset + len(data)}, inside the entry")
        members: dict[str, bytes | memoryview] = {}
        try:
            for member in walk(InMemory(data), whole=False):
                if member.key != name or member.suffix in members:
                    found = f"{member.key}.{member.suffix}"
                    raise shard_error(path, name, f"mispaired: member {found} stands inside this entry")
                members[member.suffix] = member.payload
        except TarFault as fault:
            raise shard_error(path, name, f"{fault} of the entry, which starts at byte {offset}") from None
        return decode_entry(members, index, name, label, self.specs, self.fields, path)

    def _file(self, shard: int, path: Path) -> FileIO:
        if shard not in self._files:
            while len(self._files) >= _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            try:
                self._files[shard] = path.open("rb", buffering=0)
            except OSError as error:
                raise shard_error(path, None, f"cannot be opened ({error.strerror})") from None
        self._files.move_to_end(shard)
        return self._files[shard]

    def close(self) -> None:
        """Close the shard files; one that is forgotten closes with the reader."""
        while self._files:
            self._files.popitem()[1].close()


class StreamReader(EntryReader):
    """Whole shards front to back, for storage that cannot seek; every tar header is checked."""

    def __init__(
        self, split: SplitIndex, specs: Mapping[str, FieldSpec], fields: tuple[str, ...], resident_shards: int
    ) -> None:
        super().__init__(split, specs, fields)
        self._first = np.cumsum((0, *split.shard_entries))
        self._resident = max(1, resident_shards)
        self._shards: OrderedDict[int, list[dict[str, bytes]]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": OrderedDict()}

    def read(self, indices: Indices) -> list[Entry]:
        """Shard by shard, so that each is read at most once per call."""
        wanted = np.asarray(indices, dtype=np.int64)
        shards = self.split.rows["shard"][wanted]
        entries: dict[int, Entry] = {}
        for position in np.argsort(shards, kind="stable").tolist():
            entries[position] = self._read_one(int(wanted[position]), int(shards[position]))
        return [entries[position] for position in range(len(wanted))]

    def _read_one(self, index: int, shard: int) -> Entry:
        members = self._shard(shard)[index - int(self._first[shard])]
        row = self.split.rows[index]
        key, label = row["key"].decode("ascii"), int(row["label"])
        path = self.split.shard_path(shard)
        return decode_entry(members, index, key, label, self.specs, self.fields, path)

    def _shard(self, shard: int) -> list[dict[str, bytes]]:
        if shard not in self._shards:
            while len(self._shards) >= self._resident:
                self._shards.popitem(last=False)
            self._shards[shard] = self._stream(shard)
        self._shards.move_to_end(shard)
        return self._shards[shard]

    def _stream(self, shard: int) -> list[dict[str, bytes]]:
        """All entries of a shard, which takes no more memory than the manifest gives the shard bytes.

        webdataset groups the members. Its own tar reader would unpack compressed shards, follow a header's
        size whatever it is, and take a damaged header for the end of the shard.
        """
        from webdataset.tariterators import group_by_keys

        path, record = self.split.shard_path(shard), self.split.record.shards[shard]
        try:
            with path.open("rb") as file:
                members = walk(Bounded(file, record.bytes), whole=True)
                samples = list(
                    group_by_keys(
                        {
                            "fname": f"{member.key}.{member.suffix}",
                            "data": member.payload,
                            "__url__": str(path),
                        }
                        for member in members
                    )
                )
        except OSError as error:
            raise shard_error(path, None, f"cannot be read to its end ({error.strerror})") from None
        except ValueError as error:  # TarFault is one
            raise shard_error(path, None, str(error.args[0])) from None
        found = [sample["__key__"] for sample in samples]
        expected = self.split.keys(np.arange(self._first[shard], self._first[shard + 1]))
        if found != expected:
            same = next(
                (i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), None
            )
            where = f"entry {min(len(found), len(expected)) if same is None else same}"
            raise shard_error(
                path, None, f"{len(found)} entries found, {len(expected)} in the index; they part at {where}"
            )
        return [{k: v for k, v in sample.items() if not k.startswith("__")} for sample in samples]

    def close(self) -> None:
        """Forget the resident shards."""
        self._shards.clear()


class MemoryReader(EntryReader):
    """Every entry decoded once: fields as one array each, a batch is one gather."""

    def __init__(self, source: EntryReader) -> None:
        super().__init__(source.split, source.specs, source.fields)
        entries: list[Entry] = []
        for start in range(0, len(source.split), 4096):
            entries += source.read(range(start, min(start + 4096, len(source.split))))
        source.close()
        specs = {name: source.specs[name] for name in source.fields}
        columns = {n: make_column([entry.arrays[n] for entry in entries], spec) for n, spec in specs.items()}
        self._columns = {n: without_the_rest(column, specs[n]) for n, column in columns.items()}
        self._text = tuple(entry.text for entry in entries)
        size = sum(raw_bytes(column.rows) for column in self._columns.values())
        encoded = [name for name in source.fields if source.specs[name].kind == "image"]
        images = f", images of {', '.join(encoded)} as encoded bytes" if encoded else ""
        logger.info(
            "split %s: %d entries in memory, %.1f MB%s", self.split.name, len(entries), size / 1e6, images
        )

    def read(self, indices: Indices) -> list[Entry]:
        """Views of the decoded entries."""
        keys = self.split.keys(indices)
        return [self._entry(int(index), key) for index, key in zip(indices, keys, strict=True)]

    def _entry(self, index: int, key: str) -> Entry:
        arrays = {name: self._array(column, index, name) for name, column in self._columns.items()}
        return Entry(index, key, int(self.split.labels[index]), arrays, self._text[index])

    def _array(self, column: Column, index: int, name: str) -> np.ndarray:
        if self.specs[name].ragged:
            elements: np.ndarray = column.rows[index]
            return elements
        if not self.specs[name].items:
            view: np.ndarray = column.rows[index, ...]  # an array of one object too, and not the object
            return view
        first = int(column.first[index])
        return column.rows[first : first + int(column.count[index])]

    def columns(self, indices: Indices) -> dict[str, Column]:
        """Every field of the entries at these indices; `rows` is the whole split, not a copy."""
        return {n: Column(c.rows, c.first[indices], c.count[indices]) for n, c in self._columns.items()}

    def stack(self, field: str, indices: Indices) -> np.ndarray:
        """(n, ...) one field of the entries: one gather where the field has one item per entry."""
        if self.specs[field].items:
            return super().stack(field, indices)
        return self._columns[field].rows[np.asarray(indices, dtype=np.int64)]
