"""Opens readers of entries by index: by byte offset, shard by shard from front to back, or from memory.

All give the same arrays for the same indices; they differ in what the storage must be able to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from swamp_dist.data.entry_reader import EntryReader as EntryReader
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.memory_reader import MemoryReader
from swamp_dist.data.payload_reader import PayloadReader
from swamp_dist.data.seek_reader import SeekReader
from swamp_dist.data.stream_reader import StreamReader


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
        UserError: no such split or field, or the split's index is not the one that the manifest names, or its
            payload index is missing or torn.
        ShardError: with `cache = memory`, as `EntryReader.read`.
    """
    wanted = tuple(dict.fromkeys(fields))
    for name in wanted:
        manifest.field(name)
    index = manifest.split(split)
    _ = index.rows  # a bad index is told before the first batch
    reader: EntryReader
    if reading == "stream":
        reader = StreamReader(index, manifest.fields, wanted, resident_shards)
    elif index.record.payloads is not None:
        reader = PayloadReader(index, manifest.fields, wanted)
    else:  # of a set that an earlier version built
        reader = SeekReader(index, manifest.fields, wanted)
    return MemoryReader(reader) if cache == "memory" else reader
