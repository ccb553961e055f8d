"""Columns of csv and tsv files: UTF-8 with or without a byte order mark, any line ends, values in quotes."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swamp_dist.errors import UserError
from swamp_dist.plain_files import open_plain_file
from swamp_dist.sources.columns.column import Column, Wanted, no_column

MOST_LINE = 1 << 24
"""Letters of a line; a longer one is not read on."""
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


class Row(NamedTuple):
    """The values of one row, as many as the header has."""

    line: int
    """In which it ends."""
    values: list[str]


def read_delimited(path: Path, wanted: Mapping[str, Wanted]) -> dict[str, Column]:
    """Columns of a csv or tsv by the keys of `wanted`: texts as they stand, vectors as float32.

    An empty number is nan.

    Raises:
        UserError: no such file or column, no UTF-8, no rows, a row of another length, a text where a number
            is wanted; names the line.
    """
    rows = delimited_rows(path)
    header = next(rows).values
    places = {key: _places(path, header, each) for key, each in wanted.items()}
    texts: dict[str, list[str]] = {key: [] for key, each in wanted.items() if not each.is_vector}
    numbers = {key: array("f") for key, each in wanted.items() if each.is_vector}
    lines = array("q")
    for row in rows:
        lines.append(row.line)
        for key, text in texts.items():
            text.append(row.values[places[key][0]])
        for key, number in numbers.items():
            number.extend(_numbers(path, header, row, places[key]))
    if not lines:
        raise UserError(f"{path}: holds no rows below its header")
    found = dict[str, Column]()
    for key, each in wanted.items():
        name = ", ".join(each.names)
        if each.is_vector:
            values = np.frombuffer(numbers[key], np.float32).reshape(len(lines), len(places[key]))
            found[key] = Column(path, name, values, lines)
        else:
            found[key] = Column(path, name, texts[key], lines)
    return found


def delimited_rows(path: Path) -> Iterator[Row]:
    """The header, its names without blanks around them, and then every row; blank lines are left out.

    Raises:
        UserError: as `read_delimited`.
    """
    delimiter = _DELIMITERS.get(path.suffix.lower(), ",")
    lines = (line for _, line in text_lines(path))
    yield from _rows(csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True), path)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line, its end included, without a byte order mark.

    Raises:
        UserError: no such file, no UTF-8, a null character, or a line longer than MOST_LINE.
    """
    try:
        with open_plain_file(path) as file:
            text, number = io.TextIOWrapper(file, "utf-8-sig", newline=""), 0
            while line := text.readline(MOST_LINE):
                number += 1
                if len(line) == MOST_LINE and line[-1] not in "\r\n":
                    raise UserError(f"{path}:{number}: a line of more than {MOST_LINE:,} letters")
                if "\0" in line:
                    raise UserError(f"{path}:{number}: a null character; is this a table in text?")
                yield number, line
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 (byte {error.object[error.start]:#04x}).\nSave the table as UTF-8."
        ) from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; correct its place in the recipe") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def _rows(reader: Iterator[list[str]], path: Path) -> Iterator[Row]:
    lines: int = 0
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
            raise UserError(f"{path}: expected a line with the names of its columns, found none")
        yield Row(1, header)
        blank = 0
        for values in reader:
            lines = reader.line_num  # type: ignore[attr-defined]
            if not values:
                blank = blank or lines
                continue
            if blank and len(header) == 1:
                raise UserError(f'{path}:{blank}: a blank line between rows; write "" for an empty value')
            if len(values) != len(header):
                raise UserError(
                    f"{path}:{lines}: {len(values)} values under {len(header)} columns.\n"
                    "Put a value that holds a delimiter or a line end in quotes, and double the quotes in it."
                )
            yield Row(lines, values)
    except csv.Error as error:
        at = reader.line_num  # type: ignore[attr-defined]
        raise UserError(
            f"{path}:{at}: {error}.\nA value in quotes ends with a quote; quotes inside it are doubled."
        ) from None


def _places(path: Path, header: Sequence[str], wanted: Wanted) -> list[int]:
    """Where the columns stand in a row; those that a `*` stands for in the order of the file."""
    found: list[int] = []
    for name in wanted.names:
        places = [n for n, column in enumerate(header) if column == name]
        if not places and wanted.is_vector and "*" in name:
            places = [n for n, column in enumerate(header) if fnmatchcase(column, name.replace("[", "[[]"))]
        if not places:
            raise no_column(path, name, header)
        if len(places) > 1 and "*" not in name:
            raise UserError(f"{path}: {len(places)} columns are called {name!r}: rename them")
        found += places
    if len(set(found)) != len(found):
        raise UserError(f"{path}: columns {', '.join(wanted.names)} name a column twice")
    return found


def _numbers(path: Path, header: Sequence[str], row: Row, places: Sequence[int]) -> list[float]:
    try:
        return [float(row.values[n] or "nan") for n in places]
    except ValueError:
        for n in places:
            text = row.values[n].strip()
            try:
                float(text or "nan")
            except ValueError:
                raise UserError(
                    f"{path}:{row.line}, column {header[n]!r}: expected a number, found {text[:60]!r}"
                ) from None
        return [float(row.values[n].strip() or "nan") for n in places]
