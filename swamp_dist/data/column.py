"""One field of several entries in one array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from swamp_dist.data.manifest_records import FieldSpec


@dataclass(frozen=True)
class Column:
    """One field of n entries: entry i has the items rows[first[i]] ... rows[first[i] + count[i] - 1]."""

    rows: np.ndarray
    """(items, ...); images and texts are objects, `bytes` and `str`, and so are the sets of a ragged field,
    arrays (elements, ...)"""
    first: np.ndarray
    """(n,) int64"""
    count: np.ndarray
    """(n,) int64, at least 1"""


def make_column(arrays: Sequence[np.ndarray], spec: FieldSpec) -> Column:
    """The arrays of a field, one of each entry, as a column; those of a ragged field are not copied."""
    if spec.ragged:
        return Column(array_objects(arrays), *one_each(len(arrays)))
    if not spec.items:
        return Column(np.stack(arrays), *one_each(len(arrays)))
    count = np.array([len(array) for array in arrays], dtype=np.int64)
    return Column(np.concatenate(arrays), np.cumsum(count) - count, count)


def without_the_rest(column: Column, spec: FieldSpec) -> Column:
    """The column with the arrays of a ragged field in one block of memory, so that they do not keep the bytes
    of their whole entries; other columns are so already."""
    if not spec.ragged:
        return column
    ends = np.cumsum([len(array) for array in column.rows])
    block = np.concatenate(list(column.rows))
    return Column(array_objects(np.split(block, ends[:-1])), column.first, column.count)


def array_objects(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """(n,) objects, each one of the arrays as it is, whatever their shapes."""
    rows: np.ndarray = np.empty(len(arrays), dtype=object)
    for i, array in enumerate(arrays):
        rows[i] = array
    return rows


def one_each(count: int) -> tuple[np.ndarray, np.ndarray]:
    """`first` and `count` of entries with one item each."""
    return np.arange(count), np.ones(count, dtype=np.int64)
