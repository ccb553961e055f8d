"""Names and vectors of a set's classes: class_names.txt and class_vectors.npy beside the shards."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from swamp_dist.atomic_files import open_atomically
from swamp_dist.data.manifest import ClassNamesRecord, ClassVectorsRecord, Manifest
from swamp_dist.errors import UserError
from swamp_dist.npy_files import map_npy
from swamp_dist.plain_files import NotPlainError, read_plain_file

CLASS_NAMES_FILE = "class_names.txt"
CLASS_VECTORS_FILE = "class_vectors.npy"
_MOST_BYTES = 2**28
_MEND = "The file is damaged or not of this shard set. Copy the whole set again or build it again."


def class_names(manifest: Manifest) -> tuple[str, ...] | None:
    """The names of the classes, name i that of label i; None where the set has no names.

    Raises:
        UserError: the file is gone, or not the one that the manifest names.
    """
    record = manifest.record.class_names
    if record is None:
        return None
    names = tuple(_read(manifest.folder / record.file, record.sha256).decode().split("\n")[:-1])
    if len(names) != record.names:
        raise UserError(
            f"{manifest.folder / record.file}: {len(names)} names, the manifest says {record.names}.\n{_MEND}"
        )
    return names


def class_vectors(manifest: Manifest) -> np.ndarray | None:
    """(classes, E) float32, row i the vector of the class with label i; None where the set has none.

    Raises:
        UserError: the file is gone, or not the one that the manifest names.
    """
    names = manifest.record.class_names
    if names is None or names.vectors is None:
        return None
    path, shape = manifest.folder / names.vectors.file, (names.names, names.vectors.dim)
    _read(path, names.vectors.sha256)
    try:
        rows = np.array(map_npy(path))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read as vectors of classes ({error}).\n{_MEND}") from None
    if rows.dtype != np.float32 or rows.shape != shape:
        raise UserError(f"{path}: expected float32 {shape}, found {rows.dtype} {rows.shape}.\n{_MEND}")
    return rows


def write_class_names(folder: Path, names: Sequence[str]) -> ClassNamesRecord:
    """Write class_names.txt into `folder`.

    Raises:
        UserError: a name is empty, stands twice or holds a line end.
    """
    seen: set[str] = set()
    for label, name in enumerate(names):
        if not name or name in seen or "\n" in name or "\r" in name:
            why = "stands twice" if name in seen else "is empty or holds a line end"
            raise UserError(f"class {label}: the name {name!r} {why}; every class has a name of its own")
        seen.add(name)
    with open_atomically(folder / CLASS_NAMES_FILE) as file:
        file.write("".join(f"{name}\n" for name in names).encode())
    return ClassNamesRecord(file=CLASS_NAMES_FILE, sha256=file.digest, names=len(names))


def write_class_vectors(folder: Path, rows: np.ndarray) -> tuple[str, str, int]:
    """Write class_vectors.npy, (classes, E) float32, into `folder`; its name, sha256 and E.

    Raises:
        UserError: the rows are of another type, or a value is not finite.
    """
    if rows.ndim != 2 or rows.dtype != np.float32 or not rows.size or not np.isfinite(rows).all():
        raise UserError(
            "vectors of classes: expected finite float32 rows, one a class; found "
            f"{rows.dtype} {rows.shape} with {int((~np.isfinite(rows)).sum())} values that are not finite"
        )
    with open_atomically(folder / CLASS_VECTORS_FILE) as file:
        np.lib.format.write_array(file, np.ascontiguousarray(rows), version=(1, 0), allow_pickle=False)
    return CLASS_VECTORS_FILE, file.digest, int(rows.shape[1])


def with_vectors(record: ClassNamesRecord, vectors: ClassVectorsRecord) -> ClassNamesRecord:
    """The record of names with that of their vectors."""
    return record.model_copy(update={"vectors": vectors})


def _read(path: Path, digest: str) -> bytes:
    """The bytes of a file whose hash the manifest names."""
    try:
        content = read_plain_file(path, _MOST_BYTES)
    except (OSError, NotPlainError) as error:
        raise UserError(f"{path}: cannot be read ({error}).\n{_MEND}") from None
    if (found := hashlib.sha256(content).hexdigest()) != digest:
        raise UserError(f"{path}: sha256 {found}, the manifest says {digest}.\n{_MEND}")
    return content
