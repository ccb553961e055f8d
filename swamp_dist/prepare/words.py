"""Captions of a set become ids of its own word table: counted once, cut from published vectors, looked up."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from pydantic import ValidationError

from swamp_dist.config import WordsBuildSettings
from swamp_dist.data.manifest import Manifest, WordsRecord
from swamp_dist.data.staging import Staging
from swamp_dist.data.words import WORD_LIST_FILE, WORDS_FILE, write_word_table
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.prepare.raw_data import caption_field
from swamp_dist.records import RawSplit, Sample
from swamp_dist.sources.captions import caption_ids, vocabulary, words_of
from swamp_dist.sources.word_vectors import read_vectors

logger = logging.getLogger(__name__)

_RECORD_FILE = "words.json"


def vectors_sha256(path: Path, setting: str = "words.vectors") -> str:
    """sha256 of a file of word vectors, which `setting` names; of a `.npy` followed by the `.txt` with its
    words.

    Raises:
        UserError: a file is missing.
    """
    digest = hashlib.sha256()
    for file in (path, path.with_suffix(".txt")) if path.suffix == ".npy" else (path,):
        try:
            with file.open("rb") as opened:
                while chunk := opened.read(1 << 22):
                    digest.update(chunk)
        except OSError as error:
            raise UserError(
                f"{setting}: {file}: {error.strerror}. Expected a file of word vectors (word2vec .bin, "
                ".txt, .vec, .npz); download it or correct the path."
            ) from None
    return digest.hexdigest()


def prepare_words(
    settings: WordsBuildSettings, splits: Mapping[str, RawSplit], sha256: str, staging: Staging
) -> WordsRecord:
    """The word table of a set, in the staging folder; made by the first process that comes, kept by others.

    Raises:
        UserError: a split has no captions, no word of them has a vector, or the file of vectors is damaged.
    """
    path = staging.home / _RECORD_FILE
    with FileLock(staging.home / "words.lock"):
        if path.is_file():
            try:
                return WordsRecord.model_validate_json(path.read_bytes())
            except ValidationError:
                logger.warning("%s cannot be read: counting the words again", path)
        for name in (WORDS_FILE, WORD_LIST_FILE):  # of a process that was killed between table and record
            (staging.set / name).unlink(missing_ok=True)
        wanted = set(vocabulary(caption for split in splits for caption in _captions(split, splits[split])))
        logger.info("%d distinct words in the captions; reading %s", len(wanted), settings.vectors)
        found = read_vectors(settings.vectors, wanted)
        if found.sha256 != sha256:
            raise UserError(f"{settings.vectors} changed while it was read; run the same command again")
        if not found.words:
            raise UserError(
                f"{settings.vectors}: none of the {len(wanted)} words of the captions has a vector there.\n"
                "Look-up minds case; is this the file of the captions' language and spelling?"
            )
        record = write_word_table(
            staging.set, found.words, found.vectors, sha256, settings.max_words, (caption_field(splits),)
        )
        staging.put(path, record.model_dump_json())
    return record


def _captions(name: str, split: RawSplit) -> Iterator[str]:
    if split.captions is None:
        raise UserError(
            f"words: split {name!r} of this source has no captions; leave `words` out of the recipe"
        )
    for captions in split.captions():
        yield from captions


def with_words(split: RawSplit, index: Mapping[str, int], max_words: int) -> RawSplit:
    """The split with its captions as ids, (n, max_words) int32 in the field of captions, the texts beside."""

    def read(i: int) -> Sample:
        sample = split.read(i)
        if not sample.captions:
            raise BadEntry(
                sample.key, "no captions", "it has no captions; every entry of a set with words has some"
            )
        ids = caption_ids(sample.captions, index, max_words)
        text = {**sample.text, "captions": "\n".join(" ".join(c.split("\n")) for c in sample.captions)}
        return replace(sample, fields={split.caption_field: ids, **sample.fields}, text=text)

    return replace(split, read=read)


def count_words(sample: Sample, index: Mapping[str, int], field: str) -> dict[str, int]:
    """What the coverage report sums of one entry's captions, whose ids stand in `field`."""
    tokens = [word for caption in sample.captions for word in words_of(caption)]
    return {
        "captions": len(sample.captions),
        "captions_without_words": int((~np.asarray(sample.fields[field]).any(axis=1)).sum()),
        "tokens": len(tokens),
        "unknown_tokens": sum(word not in index for word in tokens),
    }


def read_index(folder: Path) -> dict[str, int]:
    """Row of every word of the table in `folder`, from 1."""
    words = (folder / WORD_LIST_FILE).read_text("utf-8").split("\n")[1:-1]
    return {word: row for row, word in enumerate(words, start=1)}


def word_differences(existing: Manifest, wanted: WordsBuildSettings | None) -> Iterator[str]:
    """Lines about a set that was built with other words than a recipe asks for."""
    found = existing.record.words
    if found is None or wanted is None:
        if (found is None) != (wanted is None):
            first, second = ("none" if words is None else "some" for words in (found, wanted))
            yield f"  words: found {first}, wanted {second}"
        return
    if found.max_words != wanted.max_words:
        yield f"  words.max_words: found {found.max_words}, wanted {wanted.max_words}"
    # Where the set is used, the vectors it was cut from may not be there any more.
    if wanted.vectors.is_file() and found.source_sha256 != vectors_sha256(wanted.vectors):
        yield f"  words.vectors: {wanted.vectors} is not the file whose vectors the set holds"
