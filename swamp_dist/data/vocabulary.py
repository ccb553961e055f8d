"""The vocabulary of a shard set: vocabulary.json beside the shards, named in the manifest with its hash."""

from __future__ import annotations

from pathlib import Path

from swamp_dist.config import VocabularyBuildSettings
from swamp_dist.data.manifest import Manifest, VocabularyRecord
from swamp_dist.encoders.vocabulary import Vocabulary, read_vocabulary
from swamp_dist.errors import UserError
from swamp_dist.file_names import VOCABULARY_FILE


def vocabulary_record(vocabulary: Vocabulary, settings: VocabularyBuildSettings) -> VocabularyRecord:
    """What a manifest says of a vocabulary that was made by these settings."""
    return VocabularyRecord(
        file=VOCABULARY_FILE, sha256=vocabulary.sha256, words=len(vocabulary), min_count=settings.min_count,
        splits=settings.splits, unknown=settings.unknown,
    )  # fmt: skip


def vocabulary_path(manifest: Manifest) -> Path | None:
    """The file of a set's vocabulary; None where the set has none.

    Raises:
        UserError: the file is gone, damaged or of another set.
    """
    record = manifest.record.vocabulary
    if record is None:
        return None
    path = manifest.folder / record.file
    found = read_vocabulary(path)
    if found.sha256 != record.sha256:
        raise UserError(
            f"{path}: the vocabulary of another set: {len(found):,} words with sha256 {found.sha256}, the "
            f"manifest says {record.words:,} with {record.sha256}.\n"
            "Fix: copy the whole set again, or build it again."
        )
    return path
