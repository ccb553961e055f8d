"""One column of a file: a value per row, and where each row stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from swamp_dist.errors import UserError
from swamp_dist.explaining import nearest

Array: TypeAlias = NDArray[Any]
Values: TypeAlias = "Array | Sequence[str | None]"
"""(rows, ...) numbers, or a text per row, None where a table has no value."""


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a file with several columns."""

    names: tuple[str, ...]
    """One name, or names of number columns with `*` for any letters."""
    is_vector: bool = False
    """Whether the columns named form one vector of numbers per row."""


@dataclass(frozen=True)
class Column:
    """One value per row of a file."""

    file: Path
    name: str
    """Of the column or columns; empty where the file has one array."""
    values: Values
    lines: Sequence[int] | None = None
    """In text: the line in which each row ends."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def title(self) -> str:
        """For messages: the file, and the column where it has several."""
        return f"{self.file}, {self.name!r}" if self.name else str(self.file)

    @property
    def is_text(self) -> bool:
        """Whether the values are texts."""
        return not isinstance(self.values, np.ndarray)

    def place(self, row: int) -> str:
        """For messages: FILE:LINE of a text, or FILE, row N from 0."""
        return f"{self.title}, row {row}" if self.lines is None else f"{self.file}:{self.lines[row]}"


def array_column(file: Path, name: str, array: Array, lines: Sequence[int] | None = None) -> Column:
    """A column of an array (rows, ...): numbers, truth values or, as texts, letters.

    Raises:
        UserError: no rows, or values of another type.
    """
    if array.ndim == 0 or not len(array):
        raise UserError(f"{file}: expected rows, found an array of shape {array.shape}")
    if array.dtype.kind == "U" and array.ndim == 1:
        return Column(file, name, array.tolist(), lines)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise UserError(
            f"{file}: expected numbers of at most 64 bits or texts, found {array.dtype} {array.shape}.\n"
            "Save it again as another type, for example array.astype(numpy.float32)."
        )
    if 0 in array.shape:
        raise UserError(f"{file}: rows of shape {array.shape[1:]} hold no values")
    return Column(file, name, array, lines)


def no_column(file: Path, name: str, found: Sequence[str]) -> UserError:
    """The error of a name that a file does not have."""
    close = nearest(name, found)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    shown = ", ".join(each[:60] for each in found[:12]) or "none"
    more = f" and {len(found) - 12} more" if len(found) > 12 else ""
    return UserError(f"{file}: there is no column {name!r:.60}.{hint}\nIts columns: {shown}{more}.")
