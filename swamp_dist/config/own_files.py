"""Pairs of a user's own in plain files: which file and column holds what, and how rows become splits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from swamp_dist.bounds import Seed
from swamp_dist.config.names import FieldName, SplitName
from swamp_dist.settings import Settings

Share = Annotated[float, Field(gt=0, le=1)]


def _add_up(shares: dict[str, float]) -> dict[str, float]:
    total = math.fsum(shares.values())
    if shares and abs(total - 1) > 1e-6:
        raise ValueError(f"expected shares that add up to 1; these add up to {total:g}")
    return shares


Shares = Annotated[dict[SplitName, Share], AfterValidator(_add_up)]
"""Share of the entries by split."""
TABLES = (".csv", ".tsv", ".parquet")
"""Endings of files with named columns; `.npz` has named arrays, `.npy` one array."""
_ENDINGS = (".npy", ".npz", *TABLES)


class ColumnSettings(Settings):
    """One value per row: an array, or a column of a table."""

    file: Path | None = None
    """A `.npy`, `.npz`, `.csv`, `.tsv` or `.parquet` file; null = the file of the rows that it belongs to."""
    files: dict[SplitName, Path] = {}
    """Instead of file, where splits are in files of their own: a file per split, for example
    {train: a_train.npy, test: a_test.npy}."""
    column: str | None = None
    """Name of the column, or of the array in a `.npz`. A `.npy` has one array and takes no name."""

    @field_validator("file", "files")
    @classmethod
    def _ending_is_known(cls, value: Path | dict[str, Path] | None) -> Path | dict[str, Path] | None:
        for file in value.values() if isinstance(value, dict) else (value,):
            if file is not None and file.suffix.lower() not in _ENDINGS:
                raise ValueError(f"expected a file that ends in {', '.join(_ENDINGS)}; found {file.name!r}")
        return value

    def of_split(self, name: str) -> Self:
        """The column of one split, where splits are in files of their own."""
        return self.model_copy(update={"file": self.files.get(name), "files": {}})


class SideSettings(ColumnSettings):
    """One side of the pairs: a row is one item."""

    file: Path | None = None
    """A `.npy`, `.npz`, `.csv`, `.tsv` or `.parquet` file; this or files."""
    column: str | None = None
    """The whole item in one column: a list of numbers (`.parquet`) or a text (`.csv`, `.tsv`, `.parquet`); or
    an array (rows, ...) of a `.npz`. A `.npy` has one array and takes no name."""
    columns: tuple[str, ...] = ()
    """Number columns of a `.csv`, `.tsv` or `.parquet` that form the vector, in this order; `*` in a name
    stands for any letters, and such columns come in the order of the file."""
    field: FieldName | None = None
    """Name of the field in the shards, which jobs name in `data.a` and `data.b`; null = a or b."""
    dtype: Literal["float16", "float32", "float64"] | None = None
    """Type of the values in the shards; null keeps that of the file (of number columns in text: float32)."""
    belongs_to: ColumnSettings | None = None
    """For several items per entry, such as captions of an image: for each row, the row of the other side that
    it belongs to. A number from 0 or, where `key` is given, a key. null: row i is of entry i."""

    @model_validator(mode="after")
    def _names_fit_the_file(self) -> SideSettings:
        if (self.file is None) == (not self.files):
            raise ValueError("give either file, or files with one for every split")
        for file in (*self.files.values(), *([] if self.file is None else [self.file])):
            problem = _name_problem(file, self.column, self.columns)
            if problem is not None:
                raise ValueError(problem)
        return self

    def of_split(self, name: str) -> Self:
        """The side of one split, where splits are in files of their own."""
        own = super().of_split(name)
        return (
            own
            if own.belongs_to is None
            else own.model_copy(update={"belongs_to": own.belongs_to.of_split(name)})
        )


class SplitSettings(Settings):
    """How entries are divided into splits."""

    splits: tuple[SplitName, ...] = ()
    """The names that the split column must hold, each of them and no other; empty: those that it holds."""
    shares: Shares = {}
    """Instead of a split column: share of the entries by split, for example {train: 0.8, test: 0.2}."""
    seed: Seed = 0
    """Seed of the drawing by shares, which depends on the names of the groups or, without groups, of the
    entries, and not on the order of rows."""

    def _check_one_way(self, column: object) -> None:
        if (column is None) == (not self.shares):
            raise ValueError(
                "give either split (a column with the name of each entry's split) or shares, for example "
                "shares: {train: 0.8, validation: 0.1, test: 0.1}"
            )
        if self.splits and column is None:
            raise ValueError("splits: these are names that a split column holds; with shares, leave them out")


class PairsSource(SplitSettings):
    """Pairs of your own: features (or texts) of both sides in arrays or columns of tables."""

    kind: Literal["pairs"] = "pairs"
    a: SideSettings
    """Items of modality A."""
    b: SideSettings
    """Items of modality B."""
    key: ColumnSettings | None = None
    """Name of each entry, used in shards, errors and results; null = its row number."""
    label: ColumnSettings | None = None
    """Class of each entry: numbers from 0 (-1 or empty: none), or names, which are numbered as they first
    appear."""
    split: ColumnSettings | None = None
    """Split of each entry."""
    group: ColumnSettings | None = None
    """Entries of one group, such as frames of one video, are never in two splits."""
    wordless: Literal["refuse", "keep", "drop"] = "drop"
    """Texts without words (empty, null, no letter in them), as in `kind: table`: `drop`, `refuse` or `keep`
    them; an entry without others is a bad one unless they are kept."""
    sha256: str | None = None
    """Hash of the raw files (of large arrays their size, first and last MiB); others are refused. null takes
    the files as they are; the manifest records their hash either way."""

    @model_validator(mode="after")
    def _fits_together(self) -> PairsSource:
        self._check_files()
        if not self.a.files:
            self._check_one_way(self.split)
        if self.a.belongs_to is not None and self.b.belongs_to is not None:
            raise ValueError(
                "belongs_to: give it for one of a and b; the rows of the other one are the entries"
            )
        if self.a_field == self.b_field:
            raise ValueError(f"a.field and b.field are both {self.a_field!r}: expected two names")
        for part in self.by_split().values() or (self,):
            for name, column in part._inherited():
                problem = _name_problem(column.file or Path(), column.column, ())
                if problem is not None:
                    raise ValueError(f"{name}: {problem}")
        return self

    def by_split(self) -> dict[str, PairsSource]:
        """The settings of each split alone, where splits are in files of their own; else none."""
        columns = ("a", "b", "key", "label", "group")
        return {
            name: self.model_copy(
                update={"shares": {name: 1.0}}
                | {
                    key: column.of_split(name)
                    for key in columns
                    if (column := getattr(self, key)) is not None
                }
            )
            for name in self.a.files
        }

    def _check_files(self) -> None:
        """Either all columns come from files per split, or none."""
        columns = [(key, getattr(self, key)) for key in ("a", "b", "key", "label", "split", "group")]
        columns += [(f"{key}.belongs_to", getattr(self, key).belongs_to) for key in ("a", "b")]
        given = [(key, column) for key, column in columns if column is not None]
        splits = next((column.files.keys() for _, column in given if column.files), None)
        if splits is None:
            return
        if self.split is not None or self.shares or self.splits:
            raise ValueError("files: they are the splits; leave out split, splits and shares")
        for key, column in given:
            if column.file is not None or (column.files.keys() != splits and (column.files or key in "ab")):
                raise ValueError(
                    f"{key}: expected files with one for each of {', '.join(splits)}, as other columns have"
                )
            if len(set(column.files.values())) < len(column.files) and key in "ab":
                raise ValueError(f"{key}.files: one file is in two splits; it may be in one")

    @property
    def a_field(self) -> str:
        """The field of A's items."""
        return self.a.field or "a"

    @property
    def b_field(self) -> str:
        """The field of B's items."""
        return self.b.field or "b"

    @property
    def entry_side(self) -> Literal["a", "b"]:
        """The side whose rows are the entries."""
        return "b" if self.a.belongs_to is not None else "a"

    def column_settings(self) -> dict[str, ColumnSettings]:
        """The columns besides both sides, by their key in the recipe, each with its file."""
        return dict(self._inherited())

    def files(self) -> list[Path]:
        """All raw files, each once, in the order of the settings."""
        parts = self.by_split().values() or (self,)
        columns = [column for p in parts for column in (p.a, p.b, *p.column_settings().values())]
        return list(dict.fromkeys(column.file for column in columns if column.file is not None))

    def _inherited(self) -> Iterator[tuple[str, ColumnSettings]]:
        """Columns whose file is not given have the file of their rows."""
        rows = self.b if self.entry_side == "b" else self.a
        for name in ("key", "label", "split", "group"):
            if (column := getattr(self, name)) is not None:
                yield name, column.model_copy(update={"file": column.file or rows.file})
        for name, side in (("a", self.a), ("b", self.b)):
            if (column := side.belongs_to) is not None:
                yield f"{name}.belongs_to", column.model_copy(update={"file": column.file or side.file})


def _name_problem(file: Path, column: str | None, columns: tuple[str, ...]) -> str | None:
    """Why these names do not fit the kind of file; None where they do."""
    ending = file.suffix.lower()
    if ending == ".npy" and (column is not None or columns):
        return f"{file.name} holds one array: leave out its column"
    if ending == ".npz" and (column is None or columns):
        return f"{file.name}: expected column, the name of one of its arrays"
    if ending in TABLES and column is not None and columns:
        return f"{file.name}: found column and columns; give one of them"
    if ending in TABLES and column is None and not columns:
        return f"{file.name}: expected column, the name of one of its columns"
    return None
