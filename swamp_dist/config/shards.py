"""A shard recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from swamp_dist.bounds import Count, Seed
from swamp_dist.config.names import FolderName
from swamp_dist.config.sources import SourceSettings
from swamp_dist.settings import Settings


class WordsBuildSettings(Settings):
    """How captions become word ids: every caption's known words, looked up in published word vectors."""

    vectors: Path
    """File of word vectors, relative to the file that says it: word2vec `.bin`, text `.txt` or `.vec`, or a
    pruned `.npz`. The set keeps the vectors of the words that its captions use."""
    max_words: Count = 20
    """Words kept per caption, the first ones that have a vector."""


class ShardSettings(Settings):
    """A shard recipe: where raw data come from and how they are packed."""

    name: FolderName
    """Name of the shard set; the default folder is data/NAME."""
    source: SourceSettings
    entries_per_shard: Count = 1000
    """Entries in one tar file."""
    shuffle_seed: Seed = 0
    """Entries are written in an order shuffled with this seed, so that any shard is a fair sample."""
    on_missing: Literal["fail", "skip"] = "fail"
    """What becomes of an entry whose raw data are missing or malformed: `fail` stops the build and names
    it, `skip` leaves it out and lists it in the set's coverage report."""
    max_missing_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """With `skip`: a split that lacks a larger share of its entries fails all the same."""
    words: WordsBuildSettings | None = None
    """Word table of sets with captions; null for sets without."""
