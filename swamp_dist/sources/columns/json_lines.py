"""Tables of JSON objects, one per line."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

from swamp_dist.errors import UserError
from swamp_dist.plain_files import parse_json
from swamp_dist.sources.columns.column import no_column
from swamp_dist.sources.columns.delimited import text_lines


def read_json_lines(path: Path, names: Sequence[str]) -> tuple[dict[str, list[object]], Sequence[int]]:
    """Values of these members of every object, None where one is absent, and the line of each.

    Raises:
        UserError: no such file, no UTF-8, no rows, a line that is no JSON object, a name that no line has;
            names the line.
    """
    found: dict[str, list[object]] = {name: [] for name in names}
    lines, members = array("q"), dict[str, None]()
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        lines.append(number)
        members |= dict.fromkeys(row)
        for name, values in found.items():
            values.append(row.get(name))
    if not lines:
        raise UserError(f"{path}: holds no rows")
    for name in names:
        if name not in members:
            raise no_column(path, name, list(members))
    return found, lines
