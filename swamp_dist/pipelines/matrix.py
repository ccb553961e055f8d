"""The cells of a matrix: every combination of its values, and `{names}` in texts replaced by them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence

from swamp_dist.errors import UserError
from swamp_dist.explaining import nearest
from swamp_dist.file_names import name_problem

MOST_CELLS = 10_000
"""Combinations of a matrix, or points of a sweep."""
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][\w.-]*)\}")
_UNSAFE = re.compile(r"[^\w.+-]")


def cells(matrix: Mapping[str, Sequence[int | float | str]]) -> list[tuple[str, dict[str, str]]]:
    """Folder name and values of every cell: {seed: [0, 1]} -> seed-0, seed-1.

    An empty matrix is one cell without a name.

    Raises:
        UserError: there are more than MOST_CELLS, or the values give a name that no folder can have.
    """
    count = math.prod(map(len, matrix.values()))
    if count > MOST_CELLS:
        raise UserError(f"matrix: its values make {count:,} cells; expected at most {MOST_CELLS:,}")
    named = []
    for values in itertools.product(*matrix.values()):
        cell = dict(zip(matrix, map(str, values), strict=True))
        name = "_".join(f"{name}-{_UNSAFE.sub('-', v)}" for name, v in cell.items())
        if cell and (problem := name_problem(name)) is not None:
            raise UserError(f"matrix: the folder of a cell is called by its values: {problem}")
        named.append((name, cell))
    return named


def substitute(text: str, values: Mapping[str, str]) -> str:
    """`text` with every `{name}` replaced; braces around anything else (YAML sections) stay.

    Raises:
        UserError: a name that has no value; lists those that have.
    """

    def value_of(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in values:
            return values[name]
        near = nearest(name, values)
        guess = f" Did you mean {{{near[0]}}}?" if near else ""
        raise UserError(
            f"{text!r}: {{{name}}} has no value.{guess} Names here: {', '.join(sorted(values)) or 'none'}"
        )

    return _PLACEHOLDER.sub(value_of, text)
