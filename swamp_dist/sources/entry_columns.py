"""What columns say of entries besides their items: keys, classes, and which split each belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from swamp_dist.config import SplitSettings
from swamp_dist.errors import UserError
from swamp_dist.sources.columns.column import Column
from swamp_dist.sources.entry_keys import entry_key
from swamp_dist.sources.entry_splits import check_groups, check_split_names, draw_splits

MEMBER_NAME_BYTES = 100
"""What the name of a file in a tar may take, KEY.FIELD.npy (ustar)."""
_LARGEST_CLASS = 2**31 - 2


@dataclass(frozen=True)
class Entries:
    """All entries of a set before their items are read."""

    names: Sequence[str]
    """What the key column says, or row numbers."""
    keys: Sequence[str]
    labels: Sequence[int]
    class_names: Sequence[str]
    """Of each entry, where classes have names; empty where they have none."""
    splits: Mapping[str, Sequence[int]]
    """Rows of each split, in order."""
    groups: Sequence[str] = ()
    """Of each entry; empty where there are none."""


def read_entries(count: int, columns: Mapping[str, Column], settings: SplitSettings, rows_of: str) -> Entries:
    """Keys, classes and splits of `count` entries.

    Args:
        count: entries.
        columns: some of key, label, split and group.
        settings: what the splits are.
        rows_of: what has `count` rows, for messages.

    Raises:
        UserError: a column of another length, an empty or repeated key, a class that is none, a split without
            entries or not asked for, or a group in two splits.
    """
    for name, column in columns.items():
        check_length(name, column, count, rows_of)
    names = texts_of("key", columns["key"]) if "key" in columns else [str(row) for row in range(count)]
    keys = [entry_key(name) for name in names] if "key" in columns else [f"row{name}" for name in names]
    if "key" in columns:
        _check_distinct(names, columns["key"])
    groups = texts_of("group", columns["group"]) if "group" in columns else None
    if "split" in columns:
        split_of = texts_of("split", columns["split"])
        check_split_names(split_of, columns["split"], settings.splits)
        if groups is not None:
            check_groups(groups, split_of, columns["group"])
        order: Sequence[str] = settings.splits or list(dict.fromkeys(split_of))
    else:
        split_of = draw_splits(groups or names, settings.shares, settings.seed)
        order = list(settings.shares)
    rows: dict[str, list[int]] = {name: [] for name in order}
    for row, name in enumerate(split_of):
        rows[name].append(row)
    labels, class_names = read_labels(columns["label"]) if "label" in columns else ([-1] * count, [])
    return Entries(names, keys, labels, class_names, rows, groups or ())


def check_length(name: str, column: Column, count: int, rows_of: str) -> None:
    """Refuse a column that has not one value per entry.

    Raises:
        UserError: says both numbers.
    """
    if len(column) != count:
        raise UserError(
            f"source.{name}: {column.title} has {len(column):,} rows, {rows_of} has {count:,}.\n"
            f"Give {name} once for each of the {count:,} entries, in the same order."
        )


def check_key_lengths(keys: Sequence[str], suffix: str) -> None:
    """Refuse keys that are too long for the name of a file in a tar.

    Raises:
        UserError: names the first.
    """
    longest = max(keys, key=len)
    letters = len(longest) + 1 + len(suffix)
    if letters > MEMBER_NAME_BYTES:
        raise UserError(
            f"source.key: {longest}.{suffix} has {letters} letters; the name of a file in a shard may have "
            f"{MEMBER_NAME_BYTES}.\nLet source.key name shorter ones."
        )


def texts_of(name: str, column: Column) -> list[str]:
    """A name per row: texts without blanks around them, or whole numbers.

    Raises:
        UserError: a row has none, or the column holds something else.
    """
    values = column.values
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "iu" or values.ndim != 1:
            raise UserError(
                f"source.{name}: {column.title}: expected a text or a whole number per row, found "
                f"{values.dtype} {values.shape}"
            )
        return [str(value) for value in values.tolist()]
    texts = [(value or "").strip() for value in values]
    if "" in texts:
        raise UserError(f"source.{name}: {column.place(texts.index(''))}: it is empty; every entry needs one")
    return texts


def read_labels(column: Column) -> tuple[list[int], list[str]]:
    """The class number of each row and, where classes have names, its name.

    Numbers stand as they are, -1 where a row has none. Names are numbered from 0 as they first appear.

    Raises:
        UserError: numbers that are no classes.
    """
    values = column.values
    if isinstance(values, np.ndarray):
        return _numbers(values, column), []
    texts = [(value or "").strip() for value in values]
    given = [text for text in texts if text]
    if all(text.removeprefix("-").isdecimal() and text.isascii() for text in given):
        return _numbers(np.array([int(text or -1) for text in texts], object), column), []
    numbers = {name: number for number, name in enumerate(dict.fromkeys(given))}
    return [numbers.get(text, -1) for text in texts], texts


def _numbers(values: np.ndarray, column: Column) -> list[int]:
    if values.dtype.kind == "f":  # a parquet column of whole numbers in which some are null
        values = np.where(np.isnan(values), -1, values)
    wrong = [] if values.ndim != 1 else [r for r, v in enumerate(values.tolist()) if not _is_class(v)]
    if values.ndim != 1 or wrong:
        found = f"{values.tolist()[wrong[0]]}" if wrong else f"{values.dtype} {values.shape}"
        place = column.place(wrong[0]) if wrong else column.title
        raise UserError(
            f"source.label: {place}: expected a class number from 0 to {_LARGEST_CLASS} (-1: none) or a "
            f"name, found {found}"
        )
    return [int(value) for value in values.tolist()]


def _is_class(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value == int(value) and -1 <= value <= _LARGEST_CLASS if np.isfinite(value) else False


def _check_distinct(names: Sequence[str], column: Column) -> None:
    first: dict[str, int] = {}
    for row, name in enumerate(names):
        if name in first:
            raise UserError(
                f"source.key: {column.place(first[name])} and {column.place(row)}: two entries have the key "
                f"{name!r} ({len(names) - len(set(names)):,} of {len(names):,} keys repeat "
                "an earlier one).\nEvery entry needs a key of its own; for several items of an entry give "
                "belongs_to."
            )
        first[name] = row
