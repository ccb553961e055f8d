"""Holds a whole split in memory, decoded once."""

from __future__ import annotations

import logging

import numpy as np

from swamp_dist.data.column import Column, make_column, without_the_rest
from swamp_dist.data.entry import Entry
from swamp_dist.data.entry_reader import EntryReader, Indices
from swamp_dist.data.raw_fields import raw_bytes

logger = logging.getLogger(__name__)


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
