"""Puts names and vectors of classes into a shard set that stands."""

from __future__ import annotations

import numpy as np

from swamp_dist.data.class_vectors import with_vectors, write_class_names, write_class_vectors
from swamp_dist.data.manifest import MANIFEST_FILE, Manifest, load_manifest
from swamp_dist.data.manifest_records import ClassVectorsRecord


def add_class_vectors(manifest: Manifest, rows: np.ndarray) -> Manifest:
    """The set with `rows` (classes, E) as the vectors of its classes."""
    folder = manifest.folder
    names = write_class_names(folder, [f"class {label}" for label in range(len(rows))])
    file, digest, dim = write_class_vectors(folder, rows.astype(np.float32))
    vectors = ClassVectorsRecord(
        file=file, sha256=digest, dim=dim, kind="rows", source_sha256="0" * 64, unit=False, words={}
    )
    record = manifest.record.model_copy(update={"class_names": with_vectors(names, vectors)})
    record = record.model_copy(update={"hash": record.content_hash()})
    (folder / MANIFEST_FILE).write_text(record.model_dump_json(indent=1))
    return load_manifest(folder)
