"""Names and vectors of a set's classes: what a source calls them, and what a recipe says of vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from filelock import FileLock
from pydantic import ValidationError

from swamp_dist.config import ClassVectorsBuildSettings
from swamp_dist.data.class_vectors import with_vectors, write_class_names, write_class_vectors
from swamp_dist.data.manifest import ClassNamesRecord, ClassVectorsRecord, Manifest
from swamp_dist.data.staging import Staging
from swamp_dist.errors import UserError
from swamp_dist.prepare.words import vectors_sha256
from swamp_dist.records import RawSplit
from swamp_dist.sources.class_words import check_finite, mean_vectors, table_rows, unit_rows
from swamp_dist.sources.packages import fetch

_RECORD_FILE = "classes.json"


def names_of(splits: Mapping[str, RawSplit]) -> tuple[str, ...]:
    """Names of the classes of a source, by label; empty where it gives none.

    Raises:
        UserError: splits name different ones.
    """
    named = {tuple(split.class_names) for split in splits.values()} or {()}
    if len(named) > 1:
        raise UserError(
            f"the splits {', '.join(splits)} name different classes; RawSplit.class_names is of the whole set"
        )
    return named.pop()


def class_marks(names: Sequence[str], wanted: ClassVectorsBuildSettings | None) -> Mapping[str, object]:
    """What decides names and vectors, as the plan of a build keeps it.

    Raises:
        UserError: vectors are asked for where classes have no names, or their file cannot be read.
    """
    listed = hashlib.sha256("\n".join(names).encode()).hexdigest()
    if wanted is None:
        return {"names": listed}
    if not names:
        raise UserError(
            "class_vectors: the classes of this source have no names to look up; leave class_vectors out of "
            "the recipe"
        )
    return {"names": listed, "vectors": _source_sha256(wanted), **_says(wanted)}


def prepare_classes(
    names: Sequence[str], wanted: ClassVectorsBuildSettings | None, staging: Staging
) -> ClassNamesRecord:
    """Names and vectors in the staging folder; made by the first process that comes, kept by others.

    Raises:
        UserError: names cannot be stored, a class has no vector, or a file cannot be read.
    """
    path = staging.home / _RECORD_FILE
    with FileLock(staging.home / "classes.lock"):
        if path.is_file():
            try:
                return ClassNamesRecord.model_validate_json(path.read_bytes())
            except ValidationError:  # written again below
                path.unlink()
        record = write_class_names(staging.set, names)
        if wanted is not None:
            file, sha256, dim = write_class_vectors(staging.set, _rows(names, wanted))
            vectors = ClassVectorsRecord(
                file=file, sha256=sha256, dim=dim, source_sha256=_source_sha256(wanted), **_says(wanted)
            )
            record = with_vectors(record, vectors)
        staging.put(path, record.model_dump_json())
    return record


def class_differences(existing: Manifest, wanted: ClassVectorsBuildSettings | None) -> Iterator[str]:
    """Lines about a set that was built with other vectors of classes than a recipe asks for."""
    names = existing.record.class_names
    found = None if names is None else names.vectors
    if found is None or wanted is None:
        if (found is None) != (wanted is None):
            first, second = ("none" if each is None else "some" for each in (found, wanted))
            yield f"  class_vectors: found {first}, wanted {second}"
        return
    for name, value in _says(wanted).items():
        if getattr(found, name) != value:
            yield f"  class_vectors.{name}: found {getattr(found, name)}, wanted {value}"
    # Where the set is used, the files may not be there any more.
    files = [file for file in (wanted.vectors, wanted.names) if file is not None]
    if all(file.is_file() for file in files) and found.source_sha256 != _source_sha256(wanted):
        yield "  class_vectors: the set holds vectors of another file or network"


def _says(wanted: ClassVectorsBuildSettings) -> dict[str, object]:
    kind = wanted.network or ("words" if wanted.names is None else "rows")
    return {"kind": kind, "unit": wanted.unit, "words": dict(wanted.words)}


def _source_sha256(wanted: ClassVectorsBuildSettings) -> str:
    if wanted.vectors is None:
        from swamp_dist.sources import minilm  # brings torch, which other builds do without

        return str(minilm.PACKAGE.sha256)
    if wanted.names is None:
        return vectors_sha256(wanted.vectors, "class_vectors.vectors")
    digest = hashlib.sha256()
    for name, file in (("vectors", wanted.vectors), ("names", wanted.names)):
        try:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        except OSError as error:
            raise UserError(f"class_vectors.{name}: {file}: {error.strerror}. Correct the path.") from None
    return digest.hexdigest()


def _rows(names: Sequence[str], wanted: ClassVectorsBuildSettings) -> np.ndarray:
    """(classes, E) float32, as the recipe wants them."""
    if strange := [name for name in wanted.words if name not in names]:
        raise UserError(
            f"class_vectors.words: no class {', '.join(strange)}; names are in lower case with _ for blanks"
        )
    if wanted.vectors is None:
        from swamp_dist.sources import minilm

        texts = [wanted.words.get(name, name).replace("_", " ") for name in names]
        rows = minilm.features(*minilm.load(fetch(minilm.PACKAGE, wanted.download)), texts)
    elif wanted.names is None:
        rows, _ = mean_vectors(names, wanted.words, wanted.vectors)
    else:
        rows = table_rows(names, wanted.words, wanted.vectors, wanted.names)
    source = str(wanted.vectors or wanted.network)
    check_finite(names, rows, source)
    return unit_rows(names, rows, source) if wanted.unit else rows
