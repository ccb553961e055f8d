"""Lists of public sets: csv with a header, plain ids one per line, tab-separated rows without a header."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from swamp_dist.errors import UserError

T = TypeVar("T")


class Row(dict[str, str]):
    """Values of a csv by column."""

    def __init__(self, values: Mapping[str, str], place: str) -> None:
        super().__init__(values)
        self.place = place
        """FILE:LINE"""


def read_csv(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[Row]:
    """All rows of `csv_rows`; UserError also where there are none."""
    return _not_empty(list(csv_rows(path, columns, optional)), path)


def csv_rows(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row]:
    """Rows of a csv with a header line: `columns`, and those of `optional` that it has.

    Blanks around names and values are stripped; other columns are ignored. The first of `columns` says what a
    row is of: it is never empty.

    Raises:
        UserError: the file is missing, lacks a column or has a row of another length or without an id.
    """
    lines = csv.reader(io.StringIO(read_text(path), newline=""), skipinitialspace=True)
    header = [name.strip() for name in next(lines, [])]
    missing = [name for name in columns if name not in header]
    if missing:
        raise UserError(
            f"{path}: expected a csv with columns {', '.join(columns)}; found {', '.join(header)}"
        )
    places = [(name, header.index(name)) for name in (*columns, *optional) if name in header]
    try:
        for values in lines:
            if values and len(values) != len(header):
                raise UserError(f"{path}:{lines.line_num}: {len(values)} values under {len(header)} columns")
            if values:
                row = Row({n: values[p].strip() for n, p in places}, f"{path}:{lines.line_num}")
                if not row[columns[0]]:
                    raise UserError(f"{row.place}: {columns[0]} is empty")
                yield row
    except csv.Error as error:
        raise UserError(f"{path}:{lines.line_num}: {error}") from None


def read_ids(paths: Sequence[Path]) -> list[str]:
    """Video ids of all lists in turn; raises as `id_rows`."""
    return [name for name, _ in id_rows(paths)]


def id_rows(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """Video ids of all lists in turn, each with its FILE:LINE.

    Of csv files the column video_id is read, other files have one id per line.
    The 7,010 training ids of MSR-VTT 7k, for example, are the official training and validation lists.

    Raises:
        UserError: a file is missing or empty, or an id stands twice.
    """
    rows: list[tuple[str, str]] = []
    for path in paths:
        if path.suffix == ".csv":
            rows += [(row["video_id"], row.place) for row in read_csv(path, ["video_id"])]
        else:
            lines = enumerate(read_text(path).splitlines(), start=1)
            rows += _not_empty([(line.strip(), f"{path}:{n}") for n, line in lines if line.strip()], path)
    places: defaultdict[str, list[str]] = defaultdict(list)
    for name, place in rows:
        places[name].append(place)
    twice = [name for name, found in places.items() if len(found) > 1]
    if twice:
        where = " and ".join(places[twice[0]][:2])
        raise UserError(f"{where}: {len(twice)} ids stand twice, the first is {twice[0]!r}")
    return rows


def read_tsv(path: Path, columns: int) -> list[tuple[str, list[str]]]:
    """Rows of a tab-separated file without a header: FILE:LINE and `columns` values, the first an id.

    Quotes are letters like any other: csv readers that honour them swallow lines from one stray `"` to
    the next, which is how LSMDC's 101,079 training rows become 101,046.

    Raises:
        UserError: the file is missing or empty, or a row has another number of values or no id.
    """
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        values = line.removesuffix("\r").split("\t")
        if not line.strip():
            continue
        if len(values) != columns:
            raise UserError(f"{path}:{number}: {len(values)} values separated by tabs, expected {columns}")
        if not values[0].strip():
            raise UserError(f"{path}:{number}: the id is empty")
        rows.append((f"{path}:{number}", [value.strip() for value in values]))
    return _not_empty(rows, path)


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object; UserError where the file is missing or something else."""
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def json_member(path: Path, key: str, kind: type[T]) -> T:
    """One member of the JSON object in a file; UserError where it is missing or no `kind`."""
    found = read_json(path)
    member = found.get(key)
    if not isinstance(member, kind):
        raise UserError(
            f"{path}: expected a JSON object with {key} ({kind.__name__}); found "
            f"{', '.join(sorted(found)[:5])}"
        )
    return member


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, without byte order mark; UserError where it cannot be had."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; set its place in the `source` of the shard recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _not_empty(rows: list[T], path: Path) -> list[T]:
    if not rows:
        raise UserError(f"{path}: holds no rows")
    return rows
