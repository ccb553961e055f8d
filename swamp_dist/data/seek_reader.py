"""Reads entries by byte offset, and every tar header inside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from swamp_dist.data.entry import Entry, Payload, decode_entry, shard_error
from swamp_dist.data.entry_reader import EntryReader, Indices
from swamp_dist.data.manifest import FieldSpec, SplitIndex
from swamp_dist.data.shard_files import ShardFiles
from swamp_dist.data.tar import InMemory, TarFault, walk

Row = tuple[str, int, int, int, int]
"""Key, shard, offset, size and class of an entry."""


class SeekReader(EntryReader):
    """One positioned read per entry; every tar header inside it is checked."""

    def __init__(self, split: SplitIndex, specs: Mapping[str, FieldSpec], fields: tuple[str, ...]) -> None:
        super().__init__(split, specs, fields)
        self._files = ShardFiles(split.shard_paths)
        self._memory = bytearray()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_memory": bytearray()}  # a process has its own

    @property
    def files_opened(self) -> int:
        """How often this reader has opened a shard."""
        return self._files.opened

    def read(self, indices: Indices) -> list[Entry]:
        """One positioned read each."""
        return [self._read_one(index, self._new_bytes) for index in _numbers(indices)]

    def each(self, indices: Indices) -> Iterator[Entry]:
        """Every entry is read into the same memory, which stays in cache: large entries cost half the
        time."""
        for index in _numbers(indices):
            yield self._read_one(index, self._same_memory)

    def _read_one(self, index: int, read: Callable[[int, int, int], memoryview]) -> Entry:
        row = key, shard, offset, size, _ = self._row(index)
        if size <= 0 or offset < 0 or offset + size > self.split.record.shards[shard].bytes:
            raise shard_error(
                self.split.shard_path(shard),
                key,
                f"the index points to bytes {offset} to {offset + size}, outside it",
            )
        data = read(self._files.descriptor(shard), size, offset)
        if len(data) != size:
            raise shard_error(
                self.split.shard_path(shard),
                key,
                f"the file ends at byte {offset + len(data)}, inside the entry",
            )
        return self._decode(index, row, data)

    def _row(self, index: int) -> Row:
        keys, shards, offsets, sizes, labels = self.split.columns
        return (
            keys.item(index).decode("ascii"),
            shards.item(index),
            offsets.item(index),
            sizes.item(index),
            labels.item(index),
        )

    @staticmethod
    def _new_bytes(file: int, size: int, offset: int) -> memoryview:
        return memoryview(os.pread(file, size, offset))

    def _same_memory(self, file: int, size: int, offset: int) -> memoryview:
        if len(self._memory) < size:
            self._memory = bytearray(size)
        view = memoryview(self._memory)[:size]
        return view[: os.preadv(file, [view], offset)].toreadonly()

    def _decode(self, index: int, row: Row, data: memoryview) -> Entry:
        """The entry in these bytes, its members found by their tar headers."""
        key, shard, offset, _, label = row
        path = self.split.shard_path(shard)
        members: dict[str, Payload] = {}
        try:
            for member in walk(InMemory(data), whole=False):
                if member.key != key or member.suffix in members:
                    found = f"{member.key}.{member.suffix}"
                    raise shard_error(path, key, f"mispaired: member {found} stands inside this entry")
                members[member.suffix] = member.payload
        except TarFault as fault:
            raise shard_error(path, key, f"{fault} of the entry, which starts at byte {offset}") from None
        return decode_entry(members, index, key, label, self.specs, self.fields, path)

    def close(self) -> None:
        """Close the shard files."""
        self._files.close()


def _numbers(indices: Indices) -> list[int]:
    numbers: list[int] = np.asarray(indices, dtype=np.int64).tolist()
    return numbers
