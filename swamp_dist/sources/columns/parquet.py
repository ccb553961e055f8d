"""Columns of parquet files, through pyarrow, which is an extra of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from swamp_dist.errors import UserError
from swamp_dist.sources.columns.arrays import MOST_UNPACKED, UNPACKED_SLACK
from swamp_dist.sources.columns.column import Array, Column, Values, Wanted, array_column, no_column

_BATCH = 4096


def read_parquet(path: Path, wanted: Mapping[str, Wanted]) -> dict[str, Column]:
    """Columns of a parquet file by the keys of `wanted`; a vector of several columns is float32 or wider.

    A list of numbers or a text per row, or a number. Null texts are None, null numbers and lists nan.

    Raises:
        UserError: pyarrow is not installed; no such file or column; lists of different lengths, or another
            type; the columns would take far more memory than the file has bytes.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f"{path}: parquet files need pyarrow, which is not installed.\n"
            "Run `pip install 'swamp-dist[parquet]'`, or save the columns as .npy, .npz, .csv or .tsv."
        ) from None
    try:
        with parquet.ParquetFile(path, memory_map=True) as file:
            header = file.schema_arrow.names
            names = {key: _names(path, header, each) for key, each in wanted.items()}
            table = _read(path, file, sorted({name for each in names.values() for name in each}))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; correct its place in the recipe") from None
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file ({error}).") from None
    if not table.num_rows:
        raise UserError(f"{path}: holds no rows")
    return {key: _column(path, table, names[key], each) for key, each in wanted.items()}


def _names(path: Path, header: Sequence[str], wanted: Wanted) -> list[str]:
    found: list[str] = []
    for name in wanted.names:
        matching = [name] if name in header else []
        if not matching and wanted.is_vector and "*" in name:
            matching = [each for each in header if fnmatchcase(each, name.replace("[", "[[]"))]
        if not matching:
            raise no_column(path, name, header)
        found += matching
    return found


def _read(path: Path, file: Any, names: list[str]) -> Any:
    """These columns; the size of what they unpack to is watched on the way."""
    import pyarrow as arrow

    most, size, batches = UNPACKED_SLACK + MOST_UNPACKED * path.stat().st_size, 0, []
    for batch in file.iter_batches(_BATCH, columns=names):
        size += batch.nbytes
        if size > most:
            raise UserError(f"{path}: its columns unpack to more than {most:,} bytes")
        batches.append(batch)
    return arrow.Table.from_batches(batches, file.schema_arrow.empty_table().select(names).schema)


def _column(path: Path, table: Any, names: Sequence[str], wanted: Wanted) -> Column:
    name = ", ".join(wanted.names)
    values = [_values(path, each, table.column(each)) for each in names]
    if not wanted.is_vector:
        (single,) = values
        return (
            array_column(path, name, single) if isinstance(single, np.ndarray) else Column(path, name, single)
        )
    for each, found in zip(names, values, strict=True):
        if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind not in "iuf":
            raise UserError(f"{path}, column {each!r}: expected numbers, as `columns` takes")
    arrays = [found for found in values if isinstance(found, np.ndarray)]
    kind = np.result_type(np.float32, *(a.dtype for a in arrays if a.dtype.kind == "f"))
    return array_column(path, name, np.stack(arrays, axis=1).astype(kind, copy=False))


def _values(path: Path, name: str, column: Any) -> Values:
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind):
        texts: list[str | None] = column.to_pylist()
        return texts
    if types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind):
        return _lists(path, name, column, kind.value_type)
    _check_is_number(path, name, kind)
    return _numbers(column)


def _lists(path: Path, name: str, column: Any, kind: Any) -> Array:
    """Lists of one length as (rows, length); a null list is a row of nan.

    Raises:
        UserError: lists of different lengths, or of anything but numbers.
    """
    from pyarrow import compute

    _check_is_number(path, f"{name} (lists)", kind)
    lengths = _numbers(compute.list_value_length(column))  # nan where the list is null
    known = lengths[~np.isnan(lengths)] if lengths.dtype.kind == "f" else lengths
    if not len(known):
        raise UserError(f"{path}, column {name!r}: holds no list")
    width = int(known[0])
    others = np.flatnonzero((lengths != width) & (lengths == lengths))
    if len(others):
        raise UserError(
            f"{path}, row {others[0]}, column {name!r}: {int(lengths[others[0]])} numbers, the rows before "
            f"it have {width}"
        )
    flat = _numbers(compute.list_flatten(column))
    filled = lengths == lengths
    if filled.all():
        return flat.reshape(len(lengths), width)
    rows = np.full((len(lengths), width), np.nan, np.result_type(flat.dtype, np.float32))
    rows[filled] = flat.reshape(-1, width)
    return rows


def _numbers(column: Any) -> Array:
    found: Array = column.to_numpy()
    return found


def _check_is_number(path: Path, name: str, kind: Any) -> None:
    from pyarrow import types

    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise UserError(f"{path}, column {name!r}: expected numbers or texts, found {kind}")
