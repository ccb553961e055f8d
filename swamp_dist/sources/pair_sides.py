"""One side of the pairs: the items of every entry, as arrays or as texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from swamp_dist.config import SideSettings
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.sources.captions import Caption, Wordless, kept_texts
from swamp_dist.sources.columns.column import Column
from swamp_dist.sources.entry_columns import texts_of

NOT_FINITE, NO_ITEMS = "values not finite", "no items"
"""Kinds of BadEntry raised here."""


@dataclass(frozen=True)
class EntryNames:
    """What rows of the other side say to name their entry."""

    count: int
    names: Sequence[str] | None
    """Of the key column; None: entries are called by their row."""


@dataclass(frozen=True)
class Side:
    """The items of one side, and which of them each entry has."""

    name: str
    """a or b"""
    field: str
    column: Column
    dtype: np.dtype[Any] | None
    """Of the values in the shards; None of texts."""
    order: np.ndarray | None = None
    """(rows,) rows, those of an entry together and in the order of the file; None: row i is of entry i."""
    bounds: np.ndarray | None = None
    """(entries + 1,): entry i has order[bounds[i] : bounds[i + 1]]."""

    @property
    def is_text(self) -> bool:
        """Whether the items are texts."""
        return self.dtype is None

    def rows(self, entry: int, key: str) -> list[int]:
        """The rows of an entry.

        Raises:
            BadEntry: kind NO_ITEMS.
        """
        if self.order is None or self.bounds is None:
            return [entry]
        found: list[int] = self.order[self.bounds[entry] : self.bounds[entry + 1]].tolist()
        if not found:
            finding = f"no row of {self.column.title} belongs to it (source.{self.name}.belongs_to)"
            raise BadEntry(key, NO_ITEMS, finding)
        return found

    def texts(self, entry: int, key: str, wordless: Wordless) -> tuple[str, ...]:
        """Texts of an entry that are kept, without blanks around them.

        Raises:
            BadEntry: kind NO_ITEMS, or as `kept_texts`.
        """
        rows, values = self.rows(entry, key), self.column.values
        captions = [Caption(values[row], self.column.place(row)) for row in rows]
        return kept_texts(captions, key, wordless, captions[0].place)

    def array(self, entry: int, key: str) -> np.ndarray:
        """The item of an entry, or its items on a leading axis, in `dtype`.

        Raises:
            BadEntry: kind NOT_FINITE or NO_ITEMS.
        """
        rows, values = self.rows(entry, key), self.column.values
        assert isinstance(values, np.ndarray), "texts have no dtype"
        found = values[entry] if self.order is None else values[np.asarray(rows)]
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is found below
            stored = np.ascontiguousarray(found, self.dtype)
        if stored.dtype.kind == "f" and not np.isfinite(stored).all():
            bad = ~np.isfinite(stored).reshape(len(rows), -1)
            place = self.column.place(rows[int(np.argmax(bad.any(axis=1)))])
            finding = f"{int(bad.sum())} of {stored.size} values are empty, NaN or infinite in {stored.dtype}"
            raise BadEntry(key, NOT_FINITE, f"field {self.field!r}, {place}: {finding}")
        return stored


def open_side(
    name: str, field: str, settings: SideSettings, column: Column, owner: Column | None, entries: EntryNames
) -> Side:
    """A side over its column; `owner` says for each row which entry it belongs to.

    Raises:
        UserError: one number per row, or an owner of another length or without its entry.
    """
    values = column.values
    dtype = None
    if isinstance(values, np.ndarray):
        if values.ndim == 1:
            raise UserError(
                f"source.{name}: {column.title}: expected a vector per row, found one number.\n"
                "Name several number columns in `columns`, or give an array of shape (rows, values)."
            )
        dtype = values.dtype.newbyteorder("=") if settings.dtype is None else np.dtype(settings.dtype)
    if owner is None:
        return Side(name, field, column, dtype)
    owners = _owners(f"{name}.belongs_to", owner, len(column), entries)
    bounds = np.searchsorted(np.sort(owners), np.arange(entries.count + 1))
    return Side(name, field, column, dtype, np.argsort(owners, kind="stable"), bounds)


def _owners(key: str, column: Column, rows: int, entries: EntryNames) -> np.ndarray:
    """(rows,) int64: the entry that each row belongs to."""
    if len(column) != rows:
        raise UserError(
            f"source.{key}: {column.title} has {len(column):,} rows, the items have {rows:,}, the entries "
            f"{entries.count:,}.\nGive one value for each item: the entry that it belongs to."
        )
    texts = texts_of(key, column)
    if entries.names is None:
        places = {str(row): row for row in range(entries.count)}
        expected = f"a row from 0 to {entries.count - 1:,}"
    else:
        places = {name: row for row, name in enumerate(entries.names)}
        expected = "a key of source.key"
    owners = np.array([places.get(text, -1) for text in texts], np.int64)
    lost = np.flatnonzero(owners < 0)
    if len(lost):
        first = int(lost[0])
        raise UserError(
            f"source.{key}: {column.place(first)}: expected {expected}, found {texts[first][:60]!r}; "
            f"{len(lost):,} of {rows:,} items belong to no entry"
        )
    return owners
