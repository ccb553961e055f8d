"""Lists of public sets: csv with a header, plain ids one a line, tab-separated rows without a header."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from swamp_dist.records import UserError

T = TypeVar("T")


def read_csv(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, str]]:
    """All rows of `csv_rows`; UserError also where there are none."""
    return _not_empty(list(csv_rows(path, columns, optional)), path)


def csv_rows(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Rows of a csv with a header line: `columns`, and those of `optional` that it has.

    Blanks around names and values are stripped; other columns are ignored.

    Raises:
        UserError: the file is missing, lacks a column or has a row of another length.
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
                yield {name: values[place].strip() for name, place in places}
    except csv.Error as error:
        raise UserError(f"{path}:{lines.line_num}: {error}") from None


def read_ids(paths: Sequence[Path]) -> list[str]:
    """Video ids of all lists in turn: csv files by their column video_id, other files one id a line.

    The 7,010 training ids of MSR-VTT 7k, for example, are the official training and validation lists.

    Raises:
        UserError: a file is missing or empty, or an id stands twice.
    """
    ids: list[str] = []
    for path in paths:
        if path.suffix == ".csv":
            ids += [row["video_id"] for row in read_csv(path, ["video_id"])]
        else:
            ids += _not_empty([line.strip() for line in read_text(path).splitlines() if line.strip()], path)
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        files = ", ".join(str(path) for path in paths)
        raise UserError(f"{files}: {len(twice)} ids stand twice, the first is {twice[0]!r}")
    return ids


def read_tsv(path: Path, columns: int) -> list[list[str]]:
    """Rows of a tab-separated file without a header, every row with `columns` values.

    Quotes are letters like any other: csv readers that honour them swallow lines from one stray `"` to
    the next, which is how LSMDC's 101,079 training rows become 101,046.

    Raises:
        UserError: the file is missing or empty, or a row has another number of values.
    """
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        values = line.removesuffix("\r").split("\t")
        if not line.strip():
            continue
        if len(values) != columns:
            raise UserError(f"{path}:{number}: {len(values)} values separated by tabs, expected {columns}")
        rows.append([value.strip() for value in values])
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
            f"{path}: expected a JSON object with {key} ({kind.__name__}); found {', '.join(sorted(found)[:5])}"
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
