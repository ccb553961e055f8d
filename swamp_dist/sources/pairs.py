"""Pairs in arrays and tables of a user's own: row i of both sides, or several rows of one for a row of the
other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swamp_dist.config import PairsSource
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.records import RawSplit, Sample
from swamp_dist.sources.captions import Wordless
from swamp_dist.sources.columns.column import Column, Wanted
from swamp_dist.sources.columns.opening import open_columns
from swamp_dist.sources.entry_columns import Entries, check_key_lengths, read_entries
from swamp_dist.sources.pair_sides import EntryNames, Side, open_side
from swamp_dist.sources.raw_files import check_files
from swamp_dist.sources.split_files import join_splits

ENTRY_COLUMNS = ("key", "label", "split", "group")


@dataclass(frozen=True)
class Pairs:
    """The whole set, opened: makes samples one by one."""

    entries: Entries
    sides: tuple[Side, Side]
    wordless: Wordless

    @property
    def text_side(self) -> Side | None:
        """The side of texts, if there is one."""
        return next((side for side in self.sides if side.is_text), None)

    def read(self, entry: int) -> Sample:
        """Sample number `entry` of the whole set.

        Raises:
            BadEntry: it has no items, values that are not finite, or texts that are refused.
        """
        key, text_side = self.entries.keys[entry], self.text_side
        return Sample(
            key,
            {side.field: side.array(entry, key) for side in self.sides if not side.is_text},
            self.entries.labels[entry],
            {"label": self.entries.class_names[entry]} if self.entries.class_names else {},
            () if text_side is None else text_side.texts(entry, key, self.wordless),
        )

    def captions(self, side: Side, rows: Sequence[int]) -> Iterator[Sequence[str]]:
        """Texts of these entries in turn; none where `read` would refuse them."""
        for entry in rows:
            try:
                yield side.texts(entry, self.entries.keys[entry], self.wordless)
            except BadEntry:
                yield ()

    def split(self, rows: Sequence[int]) -> RawSplit:
        """These entries as a raw split."""
        keys, side = [self.entries.keys[row] for row in rows], self.text_side
        if side is None:
            return RawSplit(keys, lambda i: self.read(rows[i]))
        return RawSplit(keys, lambda i: self.read(rows[i]), lambda: self.captions(side, rows), side.field)


def open_splits(settings: PairsSource) -> Mapping[str, RawSplit]:
    """The splits by name; arrays of `.npy` and of stored `.npz` files are mapped, others are in memory.

    Raises:
        UserError: a file is absent or malformed, rows that match no count, columns of a wrong type, a key
            that stands twice, a split without entries, a group in two splits.
    """
    check_files(settings.files(), settings.sha256)
    parts = settings.by_split()
    if not parts:
        pairs = _open(settings)
        return {name: pairs.split(rows) for name, rows in pairs.entries.splits.items()}
    opened = {name: _open(part) for name, part in parts.items()}
    joined = join_splits({name: pairs.entries for name, pairs in opened.items()})
    return {
        name: replace(pairs, entries=joined[name]).split(pairs.entries.splits[name])
        for name, pairs in opened.items()
    }


def item_fields(settings: PairsSource) -> frozenset[str]:
    """The field of the side whose rows belong to those of the other one."""
    sides = ((settings.a_field, settings.a), (settings.b_field, settings.b))
    return frozenset(field for field, side in sides if side.belongs_to is not None)


def _open(settings: PairsSource) -> Pairs:
    columns = open_columns(_wanted(settings))
    a, b = columns["a"], columns["b"]
    if settings.a.belongs_to is None and settings.b.belongs_to is None and len(a) != len(b):
        raise _uneven(a, b)
    rows = columns[settings.entry_side]
    entries = read_entries(
        len(rows),
        {name: columns[name] for name in ENTRY_COLUMNS if name in columns},
        settings,
        f"source.{settings.entry_side} ({rows.title})",
    )
    names = EntryNames(len(rows), entries.names if settings.key is not None else None)
    sides = (
        open_side("a", settings.a_field, settings.a, a, columns.get("a.belongs_to"), names),
        open_side("b", settings.b_field, settings.b, b, columns.get("b.belongs_to"), names),
    )
    if all(side.is_text for side in sides):
        raise UserError("source.a, source.b: both hold texts; one of them may")
    check_key_lengths(entries.keys, max((f"{side.field}.npy" for side in sides), key=len))
    return Pairs(entries, sides, settings.wordless)


def _wanted(settings: PairsSource) -> dict[str, tuple[Path, Wanted]]:
    wanted = {}
    for name, side in (("a", settings.a), ("b", settings.b)):
        single = () if side.column is None else (side.column,)
        assert side.file is not None, "the settings see to it"
        wanted[name] = (side.file, Wanted(side.columns or single, is_vector=bool(side.columns)))
    for name, column in settings.column_settings().items():
        assert column.file is not None, "the settings have filled it in"
        wanted[name] = (column.file, Wanted(() if column.column is None else (column.column,)))
    return wanted


def _uneven(a: Column, b: Column) -> UserError:
    small, large = sorted((("a", len(a)), ("b", len(b))), key=lambda side: side[1])
    times, rest = divmod(large[1], small[1])
    fix = f"If several rows of {large[0]} belong to a row of {small[0]}, give {large[0]}.belongs_to"
    if not rest:
        fix += f"; for {times} each, in order, save numpy.arange({large[1]}) // {times} as an .npy"
    return UserError(
        f"source.a ({a.title}) has {len(a):,} rows, source.b ({b.title}) has {len(b):,}; row i of both is a "
        f"pair.\n{fix}."
    )
