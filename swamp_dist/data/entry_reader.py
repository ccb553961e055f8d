"""What reads entries by index, whatever the storage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from swamp_dist.data.column import Column, make_column, one_each
from swamp_dist.data.entry import Entry, shard_error
from swamp_dist.data.manifest import FieldSpec, SplitIndex
from swamp_dist.errors import UserError

Indices = Sequence[int] | np.ndarray


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
        blocks = {
            name: np.empty((len(indices), *spec.shape), spec.dtype)
            for name in self.fields
            if (spec := self.specs[name]).is_of_one_shape
        }
        others: dict[str, list[np.ndarray]] = {name: [] for name in self.fields if name not in blocks}
        for row, entry in enumerate(self.each(indices)):
            for name, block in blocks.items():
                block[row] = entry.arrays[name]
            for name, arrays in others.items():
                arrays.append(entry.arrays[name].copy())
        made = {name: make_column(arrays, self.specs[name]) for name, arrays in others.items()}
        return made | {name: Column(block, *one_each(len(block))) for name, block in blocks.items()}

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
