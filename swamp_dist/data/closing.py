"""Closes a set whose shards are all built: indexes, coverage and, last, the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from swamp_dist.atomic_files import open_atomically
from swamp_dist.data.coverage import COVERAGE_FILE, COVERAGE_TEXT, Coverage, coverage_text
from swamp_dist.data.manifest import (
    MANIFEST_FILE,
    IndexFile,
    ManifestRecord,
    SetTables,
    SplitRecord,
)
from swamp_dist.data.payload_index import index_payloads, payload_file, unpack_rows
from swamp_dist.data.shard_plan import BuildPlan
from swamp_dist.data.staging import Staging, UnitRecord
from swamp_dist.errors import UserError


def close_set(
    staging: Staging,
    plan: BuildPlan,
    records: Sequence[UnitRecord],
    coverage: Coverage,
    tables: SetTables | None = None,
) -> ManifestRecord:
    """Write indexes, coverage and, last, the manifest beside the finished shards and tables.

    Raises:
        UserError: no entry is left in a split, or an entry has a class without a name in a set with names.
    """
    tables = tables or SetTables()
    _check_labels(records, tables)
    splits = {
        name: _close_split(staging, name, [r for r in records if r.split == name]) for name in plan.entries
    }
    fields = next(record.fields for record in records if record.rows)
    classes = 1 + max(row[3] for record in records for row in record.rows)
    record = plan.recipe.model_copy(
        update={
            "fields": fields,
            "classes": classes,
            "splits": splits,
            "words": tables.words,
            "vocabulary": tables.vocabulary,
            "class_names": tables.class_names,
        }
    )
    record = record.model_copy(update={"hash": record.content_hash()})
    staging.put(staging.set / COVERAGE_FILE, coverage.model_dump_json(indent=1))
    staging.put(staging.set / COVERAGE_TEXT, coverage_text(coverage))
    staging.put(staging.set / MANIFEST_FILE, record.model_dump_json(indent=1))
    return record


def _check_labels(records: Sequence[UnitRecord], tables: SetTables) -> None:
    """Every entry of a set with names of classes has a class with a name."""
    if tables.class_names is None:
        return
    count = tables.class_names.names
    for record in records:
        for key, _, _, label in record.rows:
            if not 0 <= label < count:
                raise UserError(
                    f"split {record.split!r}, entry {key!r}: class {label}; the source names {count} "
                    f"classes, so that labels are 0 to {count - 1}"
                )


def _close_split(staging: Staging, split: str, records: Sequence[UnitRecord]) -> SplitRecord:
    filled = [record for record in records if record.rows]
    for record in records:
        if not record.rows:  # every entry was left out
            (staging.set / record.shard.file).unlink(missing_ok=True)
    if not filled:
        raise UserError(f"split {split!r} is empty: all of its entries were left out")
    rows = [
        (key.encode("ascii"), shard, offset, size, label)
        for shard, record in enumerate(filled)
        for key, offset, size, label in record.rows
    ]
    return SplitRecord(
        entries=len(rows),
        bytes=sum(record.shard.bytes for record in filled),
        shards=tuple(record.shard for record in filled),
        index=_write_index(staging, split, rows),
        payloads=write_payloads(
            staging.set, split, [_payload_rows(staging, record) for record in filled], staging.scratch
        ),
    )


def _write_index(staging: Staging, split: str, rows: Iterable[tuple[bytes, int, int, int, int]]) -> IndexFile:
    listed = list(rows)
    width = max(len(row[0]) for row in listed)
    dtype = [("key", f"S{width}"), ("shard", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("label", "<i4")]
    return _write_rows(staging.set / f"{split}.index.npy", np.array(listed, dtype=dtype), staging.scratch)


def _payload_rows(staging: Staging, record: UnitRecord) -> np.ndarray:
    """Those of the sidecar, or of the shard itself where an earlier version wrote the sidecar."""
    rows = unpack_rows(record.payloads, record.fields, len(record.rows))
    if rows is not None:
        return rows
    return index_payloads(staging.set / record.shard.file, record.rows, record.fields)


def write_payloads(
    folder: Path, split: str, shards: Sequence[np.ndarray], scratch: Path | None = None
) -> IndexFile:
    """Write the payload index of a split from the rows of its shards, in their order."""
    return _write_rows(folder / payload_file(split), np.concatenate(shards), scratch)


def _write_rows(path: Path, rows: np.ndarray, scratch: Path | None) -> IndexFile:
    with open_atomically(path, scratch) as file:
        np.lib.format.write_array(file, rows, allow_pickle=False)
    return IndexFile(file=path.name, sha256=file.digest)
