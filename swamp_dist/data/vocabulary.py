"""The vocabulary of a shard set: vocabulary.json beside the shards, named in the manifest with its hash."""

from __future__ import annotations

from pathlib import Path

from swamp_dist.config import GruSettings, ModelSettings, VocabularyBuildSettings
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


def with_vocabulary(model: ModelSettings, manifest: Manifest) -> ModelSettings:
    """The encoders with the file of the set's vocabulary where they ask for that of the set; as they are
    where the set has none, which the encoder refuses.

    Raises:
        UserError: as `vocabulary_path`.
    """
    asking = {
        side: encoder
        for side, encoder in (("a", model.a), ("b", model.b))
        if isinstance(encoder, GruSettings) and encoder.vocabulary == "set"
    }
    path = vocabulary_path(manifest) if asking else None
    if path is None:
        return model
    filled = {side: encoder.model_copy(update={"vocabulary": path}) for side, encoder in asking.items()}
    return model.model_copy(update=filled)
