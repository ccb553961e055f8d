"""A table that names image files and holds their captions; rows of one image are one entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from swamp_dist.config import TableSource
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.records import RawSplit, Sample
from swamp_dist.sources.captions import Caption, kept_texts
from swamp_dist.sources.columns.column import Column, Wanted
from swamp_dist.sources.columns.delimited import read_delimited
from swamp_dist.sources.columns.json_lines import read_json_lines
from swamp_dist.sources.entry_columns import Entries, check_key_lengths, read_entries
from swamp_dist.sources.image_files import image_path, read_image
from swamp_dist.sources.raw_files import check_files


@dataclass(frozen=True)
class Rows:
    """The rows of a table."""

    settings: TableSource
    values: Mapping[str, Sequence[object]]
    """By column."""
    lines: Sequence[int]

    def place(self, row: int) -> str:
        """FILE:LINE"""
        return f"{self.settings.file}:{self.lines[row]}"

    def text(self, column: str, row: int) -> str | None:
        """A value that is a text or a whole number; None where there is none.

        Raises:
            UserError: it is something else.
        """
        value = self.values[column][row]
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is not None and not isinstance(value, str):
            raise UserError(
                f"{self.place(row)}, {column!r}: expected a text or a whole number, found "
                f"{type(value).__name__}"
            )
        return value

    def captions(self, rows: Sequence[int]) -> list[Caption]:
        """Of these rows in turn, and of the columns in the order of the settings."""
        found = []
        for row in rows:
            for column in self.settings.captions:
                value = self.values[column][row]
                several = value if isinstance(value, list) else [value]
                found += [Caption(each, self.place(row)) for each in several]
        return found


@dataclass(frozen=True)
class Images:
    """All entries of a table: makes samples one by one."""

    settings: TableSource
    rows: Rows
    paths: Sequence[str]
    """Of each entry's image."""
    rows_of: Sequence[Sequence[int]]
    """Of each entry, in the order of the table."""
    entries: Entries

    def read(self, entry: int) -> Sample:
        """Entry number `entry` of the table.

        Raises:
            BadEntry: its image cannot be had, or its captions are refused.
            UserError: its image lies elsewhere.
        """
        key, names = self.entries.keys[entry], self.entries.class_names
        image = read_image(self.settings.folder, self.paths[entry], key)
        return Sample(
            key,
            {self.settings.image_field: image},
            self.entries.labels[entry],
            {"image": self.paths[entry], **({"label": names[entry]} if names else {})},
            self.texts(entry),
        )

    def texts(self, entry: int) -> tuple[str, ...]:
        """Captions of an entry that are kept; raises BadEntry where they are refused."""
        rows = self.rows_of[entry]
        captions, place = self.rows.captions(rows), self.rows.place(rows[0])
        return kept_texts(captions, self.entries.keys[entry], self.settings.wordless, place)

    def captions(self, entries: Sequence[int]) -> Iterator[Sequence[str]]:
        """Captions of these entries in turn; none where `read` would refuse them."""
        for entry in entries:
            try:
                yield self.texts(entry)
            except BadEntry:
                yield ()

    def split(self, entries: Sequence[int]) -> RawSplit:
        """These entries as a raw split."""
        return RawSplit(
            [self.entries.keys[entry] for entry in entries],
            lambda i: self.read(entries[i]),
            lambda: self.captions(entries),
            self.settings.caption_field,
        )


def open_splits(settings: TableSource) -> Mapping[str, RawSplit]:
    """The splits by name; the table is in memory, images are read one by one.

    Raises:
        UserError: the table is absent or malformed, a path leads out of the root, rows of one image say
            different things of it, a key stands twice, a split without entries, a group in two splits.
    """
    check_files(settings.files(), settings.sha256)
    rows = _read_rows(settings)
    by_path: dict[str, list[int]] = {}
    for row in range(len(rows.lines)):
        path = image_path((rows.text(settings.image, row) or "").strip(), rows.place(row))
        by_path.setdefault(path, []).append(row)
    paths, rows_of = list(by_path), list(by_path.values())
    columns = {
        name: _of_entries(rows, name, column, rows_of) for name, column in settings.entry_columns().items()
    }
    columns.setdefault(
        "key", Column(settings.file, settings.image, paths, [rows.lines[own[0]] for own in rows_of])
    )
    entries = read_entries(len(paths), columns, settings, f"{settings.file}, by image,")
    suffix = max(f"{settings.image_field}.webp", f"{settings.caption_field}.json", key=len)
    check_key_lengths(entries.keys, suffix)
    images = Images(settings, rows, paths, rows_of, entries)
    return {name: images.split(chosen) for name, chosen in entries.splits.items()}


def item_fields(settings: TableSource) -> frozenset[str]:
    """No field of the samples has several items; that of the captions, which a build adds, has."""
    return frozenset()


def _read_rows(settings: TableSource) -> Rows:
    names = list(dict.fromkeys([settings.image, *settings.captions, *settings.entry_columns().values()]))
    if settings.file.suffix.lower() == ".jsonl":
        return Rows(settings, *read_json_lines(settings.file, names))
    columns = read_delimited(settings.file, {name: Wanted((name,)) for name in names})
    lines = columns[settings.image].lines
    assert lines is not None, "columns of a text have lines"
    return Rows(settings, {name: list(column.values) for name, column in columns.items()}, lines)


def _of_entries(rows: Rows, name: str, column: str, rows_of: Sequence[Sequence[int]]) -> Column:
    """One value per entry; UserError where its rows say different things."""
    values, lines = [], []
    for own in rows_of:
        first, *others = (rows.text(column, row) for row in own)
        for row, value in zip(own[1:], others, strict=True):
            if value != first:
                raise UserError(
                    f"source.{name}: {rows.place(own[0])} and {rows.place(row)} name one image; its "
                    f"{column!r} is {first!r} and {value!r}.\nRows of one image are one entry: correct one."
                )
        values.append(first)
        lines.append(rows.lines[own[0]])
    return Column(rows.settings.file, column, values, lines)
