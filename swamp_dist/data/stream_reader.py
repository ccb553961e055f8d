"""Reads whole shards front to back, for storage that cannot seek."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from swamp_dist.data.entry import Entry, decode_entry, shard_error
from swamp_dist.data.entry_reader import EntryReader, Indices
from swamp_dist.data.manifest import FieldSpec, SplitIndex
from swamp_dist.data.tar import Bounded, walk


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
