"""The vocabulary of a set's captions: read from a published file, or counted on the captions themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from filelock import FileLock

from swamp_dist.config import VocabularyBuildSettings
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.staging import Staging
from swamp_dist.encoders.vocabulary import (
    MARKS,
    Vocabulary,
    build_vocabulary,
    caption_words,
    read_vocabulary,
    vocabulary_json,
)
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.file_names import VOCABULARY_FILE
from swamp_dist.records import RawSplit, Sample

logger = logging.getLogger(__name__)

UNKNOWN_WORDS = "caption without known words"
"""Kind of BadEntry raised here."""


def vocabulary_marks(settings: VocabularyBuildSettings) -> Mapping[str, object]:
    """What decides the vocabulary and what becomes of captions, as the plan of a build keeps it.

    Raises:
        UserError: the file cannot be read.
    """
    words = None if settings.file is None else read_vocabulary(settings.file).sha256
    return {**settings.model_dump(exclude={"file"}), "sha256": words}


def prepare_vocabulary(
    settings: VocabularyBuildSettings, splits: Mapping[str, RawSplit], staging: Staging
) -> Vocabulary:
    """The vocabulary, in the staging folder; made by the first process that comes, kept by others.

    Raises:
        UserError: the file cannot be read, a split is not there or has no captions, or no word is frequent
        enough.
    """
    path = staging.set / VOCABULARY_FILE
    with FileLock(staging.home / "vocabulary.lock"):
        if path.is_file():
            return read_vocabulary(path)
        vocabulary = _make(settings, splits)
        logger.info("vocabulary of %d words", len(vocabulary))
        staging.put(path, vocabulary_json(vocabulary))
    return vocabulary


def _make(settings: VocabularyBuildSettings, splits: Mapping[str, RawSplit]) -> Vocabulary:
    if settings.file is not None:
        return read_vocabulary(settings.file)
    assert settings.min_count is not None, "the settings ask for a file or a count"
    if missing := [name for name in settings.splits if name not in splits]:
        raise UserError(
            f"vocabulary.splits: no split {', '.join(missing)}; the source has {', '.join(splits)}"
        )
    captions = (caption for name in settings.splits for caption in _captions(name, splits[name]))
    vocabulary = build_vocabulary(captions, settings.min_count)
    if len(vocabulary) == len(MARKS):
        raise UserError(
            f"vocabulary: no word stands {settings.min_count} times in the captions of "
            f"{', '.join(settings.splits)}.\nFix: lower vocabulary.min_count"
        )
    return vocabulary


def _captions(name: str, split: RawSplit) -> Iterator[str]:
    if split.captions is None:
        raise UserError(f"vocabulary: split {name!r} has no captions; leave `vocabulary` out of the recipe")
    for captions in split.captions():
        yield from captions


def with_known_words(split: RawSplit, vocabulary: Vocabulary, unknown: str) -> RawSplit:
    """The split, with captions without a known word left out (`drop`), or refused (`refuse`)."""

    def read(i: int) -> Sample:
        sample = split.read(i)
        known = [_is_known(caption, vocabulary) for caption in sample.captions]
        if all(known) or not sample.captions:
            return sample
        if unknown == "refuse" or not any(known):
            caption = sample.captions[known.index(False)]
            raise BadEntry(
                sample.key, UNKNOWN_WORDS,
                f"no word of {caption[:60]!r} is in the vocabulary; vocabulary.unknown says what becomes of "
                "it",
            )  # fmt: skip
        kept = tuple(caption for caption, keep in zip(sample.captions, known, strict=True) if keep)
        return replace(sample, captions=kept)

    return split if unknown == "keep" else replace(split, read=read)


def _is_known(caption: str, vocabulary: Vocabulary) -> bool:
    return any(word in vocabulary.ids for word in caption_words(caption))


def count_known(sample: Sample, vocabulary: Vocabulary) -> dict[str, int]:
    """What the coverage report sums of one entry's captions."""
    words: Sequence[list[str]] = [caption_words(caption) for caption in sample.captions]
    known = [[word in vocabulary.ids for word in caption] for caption in words]
    return {
        "captions": len(words),
        "captions_without_words": sum(not any(caption) for caption in known),
        "tokens": sum(map(len, words)),
        "unknown_tokens": sum(len(caption) - sum(caption) for caption in known),
    }


def vocabulary_differences(existing: Manifest, wanted: VocabularyBuildSettings | None) -> Iterator[str]:
    """Lines about a set that was built with another vocabulary than a recipe asks for."""
    found = existing.record.vocabulary
    if found is None or wanted is None:
        if (found is None) != (wanted is None):
            first, second = ("none" if each is None else "one" for each in (found, wanted))
            yield f"  vocabulary: found {first}, wanted {second}"
        return
    for name in ("min_count", "splits", "unknown"):
        if getattr(found, name) != getattr(wanted, name):
            yield f"  vocabulary.{name}: found {getattr(found, name)}, wanted {getattr(wanted, name)}"
    # Where the set is used, the file may not be there any more.
    file = wanted.file if wanted.file is not None and wanted.file.is_file() else None
    if file is not None and read_vocabulary(file).sha256 != found.sha256:
        yield f"  vocabulary.file: {file} is not the vocabulary that the set holds"
