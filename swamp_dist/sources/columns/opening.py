"""Opens the columns that settings name, whatever their files are; each file is read once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from swamp_dist.errors import UserError
from swamp_dist.sources.columns.arrays import read_npy, read_npz
from swamp_dist.sources.columns.column import Column, Wanted
from swamp_dist.sources.columns.delimited import read_delimited
from swamp_dist.sources.columns.parquet import read_parquet


def open_columns(wanted: Mapping[str, tuple[Path, Wanted]]) -> dict[str, Column]:
    """The columns by the keys of `wanted`, which are those of the recipe below `source`.

    Raises:
        UserError: as the reader of the file; names the keys.
    """
    by_file: dict[Path, dict[str, Wanted]] = {}
    for key, (path, each) in wanted.items():
        by_file.setdefault(path, {})[key] = each
    found: dict[str, Column] = {}
    for path, columns in by_file.items():
        try:
            found |= _read(path, columns)
        except UserError as error:
            keys = ", ".join(f"source.{key}" for key in columns)
            raise UserError(f"{keys}: {error}") from None
    return {key: found[key] for key in wanted}


def _read(path: Path, wanted: dict[str, Wanted]) -> dict[str, Column]:
    if not path.is_file():
        what = "it is no file" if path.exists() else "no such file"
        raise UserError(f"{path}: {what}; correct its place in the recipe")
    match path.suffix.lower():
        case ".npy":
            column = read_npy(path)
            return dict.fromkeys(wanted, column)
        case ".npz":
            return read_npz(path, wanted)
        case ".parquet":
            return read_parquet(path, wanted)
    return read_delimited(path, wanted)
