"""Writes samples as a shard set: WebDataset tars, an index a split, and the manifest last.

Everything is written to a hidden folder beside the target, synced to disk, and renamed into place as
the last act: a build that was killed never looks finished.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock

from swamp_dist.data.entry import encode_entry
from swamp_dist.data.lanes import permutation
from swamp_dist.data.manifest import (
    MANIFEST_FILE,
    FieldSpec,
    IndexFile,
    Manifest,
    ManifestRecord,
    ShardFile,
    SplitRecord,
    load_manifest,
    read_manifest,
)
from swamp_dist.data.sample_checks import SPLIT_NAME, check_name, check_size, checked_samples
from swamp_dist.records import Sample, UserError

logger = logging.getLogger(__name__)


def write_shards(
    samples_by_split: Mapping[str, Iterable[Sample]],
    folder: Path,
    name: str,
    source: Mapping[str, Any],
    entries_per_shard: int = 1000,
    shuffle_seed: int | None = 0,
    item_fields: Collection[str] = (),
    force: bool = False,
) -> Manifest:
    """Write a shard set to `folder`; a set that is there and has the same recipe is left alone.

    Args:
        samples_by_split: the samples of every split, taken in turn.
        folder: where the set goes; its parent is made when needed.
        name: name of the set.
        source: JSON-ready settings that decide the samples; part of the recipe and the manifest's hash.
        entries_per_shard: entries in one tar.
        shuffle_seed: entries are written in an order shuffled with it, so that every shard is a fair
            sample (a split is held in memory for that); None writes them as they come, a shard in memory.
        item_fields: fields whose arrays have a leading axis of several items.
        force: replace a set of another recipe.

    Raises:
        UserError: the folder holds another set or other files; a split is empty; an entry has an unsafe
            or repeated key, a value that is not finite, or fields unlike the first entry's.
    """
    recipe = ManifestRecord(
        name=name, source=dict(source), entries_per_shard=entries_per_shard, shuffle_seed=shuffle_seed,
        fields={}, classes=0, splits={},
    )  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):  # of two builders the second finds the set built
        existing = find_existing(folder, recipe, force)
        if existing is not None:
            logger.info("shard set %s is up to date", folder)
            return existing
        staging = folder.parent / f".{folder.name}.building"
        shutil.rmtree(staging, ignore_errors=True)  # of a build that was killed: we hold the lock
        staging.mkdir()
        try:
            record = _write_set(samples_by_split, staging, recipe, frozenset(item_fields))
            _publish(staging, folder)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    logger.info("shard set %s: %s", folder, ", ".join(f"{k} {v.entries}" for k, v in record.splits.items()))
    return load_manifest(folder)


def find_existing(folder: Path, recipe: ManifestRecord, force: bool = False) -> Manifest | None:
    """The complete set at `folder` if it has this recipe; None where a set may be written.

    Raises:
        UserError: the folder holds a set of another recipe (without `force`), a damaged set (likewise),
            or files that are not a shard set.
    """
    if not folder.exists():
        return None
    if not (folder / MANIFEST_FILE).is_file():
        if folder.is_dir() and not any(folder.iterdir()):
            return None
        raise UserError(f"{folder} exists and is not a shard set (no manifest.json): choose another folder")
    if force:
        return None
    found, wanted = read_manifest(folder).record.recipe(), recipe.recipe()
    if found != wanted:
        lines = [f"  {key}: found {a!r}, wanted {b!r}" for key, a, b in _differences(found, wanted)]
        raise UserError(
            f"{folder} holds a shard set of another recipe:\n" + "\n".join(lines[:15]) + "\n"
            "Write to another folder (--out), remove this one, or replace it with --force."
        )
    return load_manifest(folder)


def _differences(found: Any, wanted: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in sorted(found.keys() | wanted.keys()):
            yield from _differences(found.get(name), wanted.get(name), f"{key}.{name}" if key else name)
    elif found != wanted:
        yield key, found, wanted


# -- splits and shards -----------------------------------------------------------------------------


def _write_set(
    samples_by_split: Mapping[str, Iterable[Sample]],
    staging: Path,
    recipe: ManifestRecord,
    item_fields: frozenset[str],
) -> ManifestRecord:
    if not samples_by_split:
        raise UserError(f"shard set {recipe.name}: the source gave no splits")
    splits, fields, classes = {}, dict[str, FieldSpec](), 0
    for split, samples in samples_by_split.items():
        check_name("split", split, SPLIT_NAME)
        seed = recipe.shuffle_seed
        ordered = samples if seed is None else _shuffled(list(samples), seed, split)
        checked = checked_samples(ordered, split, fields, item_fields)
        splits[split], largest = _write_split(checked, staging, split, recipe.entries_per_shard)
        classes = max(classes, largest + 1)
    record = recipe.model_copy(update={"fields": fields, "classes": classes, "splits": splits})
    record = record.model_copy(update={"hash": record.content_hash()})
    with _HashedFile(staging / MANIFEST_FILE) as file:
        file.write(record.model_dump_json(indent=1).encode())
    return record


def _shuffled(samples: list[Sample], seed: int, split: str) -> Iterator[Sample]:
    return (samples[i] for i in permutation(len(samples), "write", seed, split))


def _write_split(
    samples: Iterator[Sample], staging: Path, split: str, entries_per_shard: int
) -> tuple[SplitRecord, int]:
    rows: list[tuple[bytes, int, int, int, int]] = []
    shards: list[ShardFile] = []
    while chunk := list(islice(samples, entries_per_shard)):
        path = staging / f"{split}-{len(shards):06d}.tar"
        file = _write_shard(chunk, path, len(shards), rows)
        shards.append(ShardFile(file=path.name, bytes=file.bytes, sha256=file.digest, entries=len(chunk)))
    if not rows:
        raise UserError(f"split {split!r} is empty: the source gave no samples for it")
    index = _write_index(rows, staging / f"{split}.index.npy")
    total = sum(shard.bytes for shard in shards)
    record = SplitRecord(entries=len(rows), bytes=total, shards=tuple(shards), index=index)
    return record, max(row[4] for row in rows)


def _write_shard(
    samples: list[Sample], path: Path, shard: int, rows: list[tuple[bytes, int, int, int, int]]
) -> _HashedFile:
    from webdataset.writer import TarWriter  # imports torch; only a build pays for it

    with _HashedFile(path) as file:
        tar = TarWriter(file, user="", group="", mtime=0, encoder=False, compress=False)
        for sample in samples:
            start = tar.tarstream.offset
            for suffix, payload in encode_entry(sample):
                check_size(sample.key, suffix, payload)
                tar.write({"__key__": sample.key, suffix: payload})  # one by one: keeps the json first
            size = tar.tarstream.offset - start
            rows.append((sample.key.encode("ascii"), shard, start, size, sample.label))
        tar.close()
    return file


def _write_index(rows: list[tuple[bytes, int, int, int, int]], path: Path) -> IndexFile:
    width = max(len(row[0]) for row in rows)
    dtype = [("key", f"S{width}"), ("shard", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("label", "<i4")]
    with _HashedFile(path) as file:
        np.lib.format.write_array(file, np.array(rows, dtype=dtype), allow_pickle=False)
    return IndexFile(file=path.name, sha256=file.digest)


class _HashedFile:
    """A new file that is hashed as it is written and synced to disk when closed."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("xb")
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    def __enter__(self) -> _HashedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def write(self, data: bytes) -> int:
        """Append `data`."""
        self._sha256.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    @property
    def digest(self) -> str:
        """sha256 of what was written."""
        return self._sha256.hexdigest()


def _publish(staging: Path, folder: Path) -> None:
    _sync_folder(staging)
    replaced = folder.parent / f".{folder.name}.replaced"
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    staging.rename(folder)
    _sync_folder(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
