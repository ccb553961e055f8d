"""The index of a split: one row per entry, which says where in the shards it lies.

A row that points elsewhere would train on other entries than the manifest lists. So an index is compared with
the hash that the manifest names when it is opened, and its rows with what the manifest says of the shards.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from swamp_dist.data.manifest_records import SplitRecord
from swamp_dist.errors import UserError
from swamp_dist.npy_files import map_npy

_NUMBERS = {"shard": "<i4", "offset": "<i8", "size": "<i8", "label": "<i4"}


def read_index(folder: Path, record: SplitRecord) -> np.ndarray:
    """(N,) structured array, memory-mapped: key, shard, offset, size, label.

    Raises:
        UserError: the file is missing or damaged, or a row is not one of the split.
    """
    path = folder / record.index.file
    try:
        fault = index_fault(path, record)
        if fault is None:
            return map_npy(path)
    except (OSError, ValueError) as error:
        fault = f"cannot be read as an index ({error})"
    raise UserError(
        f"{path}: {fault}.\n"
        "The file is damaged or not of this shard set. Copy it again or build the set again."
    )


def index_fault(path: Path, record: SplitRecord) -> str | None:
    """What is wrong with an index, or None.

    Raises:
        OSError, ValueError: it is no npy file.
    """
    rows = map_npy(path)
    names, wanted = rows.dtype.names, ("key", *_NUMBERS)
    if names != wanted or rows.ndim != 1 or len(rows) != record.entries:
        return f"{len(rows)} rows of {rows.dtype}, expected {record.entries} rows with {', '.join(wanted)}"
    if rows.dtype["key"].kind != "S" or any(rows.dtype[n] != np.dtype(kind) for n, kind in _NUMBERS.items()):
        return f"rows of {rows.dtype}, expected keys and whole numbers"
    fault = _row_fault(rows, record)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == record.index.sha256:
        return fault
    return "sha256 differs from the manifest" + (f"; {fault}" if fault else "")


def _row_fault(rows: np.ndarray, record: SplitRecord) -> str | None:
    """The first row that does not go on where the row before it ended. The entries of a shard fill it from
    its first byte on, in the order of the index, so that no row stands twice and none is left out.
    """
    counts = [shard.entries for shard in record.shards]
    shards = np.repeat(np.arange(len(counts)), counts)
    if len(shards) != len(rows):
        return f"{len(rows)} rows for the {len(shards)} entries of the shards"
    ends = rows["offset"] + rows["size"]
    starts = np.concatenate(([0], ends[:-1]))
    starts[np.flatnonzero(np.diff(shards, prepend=-1))] = 0
    limits = np.array([shard.bytes for shard in record.shards])[shards]
    bad = (rows["shard"] != shards) | (rows["offset"] != starts) | (rows["size"] <= 0)
    bad |= rows["size"] > limits - starts
    if not bad.any():
        return None
    row = int(bad.argmax())
    shard, offset, size = (int(rows[name][row]) for name in ("shard", "offset", "size"))
    key = rows["key"][row].decode("ascii", "replace")
    return (
        f"row {row} (entry {key!r}): shard {shard}, bytes {offset} to {offset + size}; expected shard "
        f"{shards[row]}, from byte {starts[row]}, within {limits[row]} bytes"
    )
