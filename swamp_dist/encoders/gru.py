"""Texts by a GRU over their words, as one vector or as the set of their words."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from swamp_dist.bounds import Width
from swamp_dist.encoders.cost import EncoderCost, Layer
from swamp_dist.encoders.encoder import Tokenizer
from swamp_dist.encoders.hashed_words import HashedWordsEncoder
from swamp_dist.errors import UserError
from swamp_dist.records import InputSpec

if TYPE_CHECKING:
    from torch import nn

    from swamp_dist.encoders.vocabulary import Vocabulary


class GruSettings(HashedWordsEncoder):
    """GRU over the learned vectors of a text's words: SCAN's text encoder (Lee et al. 2018, section 3.2) with
    `output: words` or the mean of them, VSE++'s (Faghri et al. 2018) with `output: last, directions: 1`.
    Words are found by their hashes, as for `bag_of_words`, or are those of a vocabulary, as published."""

    kind: Literal["gru"] = "gru"
    width: Width = 300
    """Length of a word's vector."""
    vocabulary: Literal["hashed", "set"] | Path = "hashed"
    """Words that have a vector. `hashed`: all, each found by its hash among `buckets`. `set`: those of the
    vocabulary that the shard set was built with. A path: those of a file, SCAN's .json or the .pkl of VSE++
    or PCME, relative to the file that says it. Of a vocabulary, captions are cut by NLTK's rules and stand
    between <start> and <end>, two words more than `max_words`."""
    output: Literal["mean", "last", "words"] = "mean"
    """What is made of the states: their mean over the words; the last one, of both directions the mean of
    both; or `words`, the set of all, of which `model.sets` makes an embedding."""
    directions: Literal[1, 2] = 2
    """2: a second GRU reads every text from its end, and a word's feature is the mean of both states."""
    unit: bool = False
    """Bring every word's feature to unit length, as SCAN does (its `no_txtnorm` off)."""

    @model_validator(mode="after")
    def _unit_is_of_words(self) -> GruSettings:
        if self.unit and self.output == "last":
            raise ValueError("unit = true is of every word's feature, output = last has one: unit = false")
        return self

    def gives_sets(self, spec: InputSpec) -> bool:
        """Of words."""
        return self.output == "words"

    def most_elements(self, spec: InputSpec) -> int:
        """`max_words`, and the marks around them."""
        return self._most_words if self.gives_sets(spec) else 1

    def configured_input(self) -> InputSpec | None:
        """Texts; unknown is how many words there are before the set is built whose vocabulary is taken."""
        return None if self.vocabulary == "set" else super().configured_input()

    def tokenizer(self) -> Tokenizer:
        """`HashedWords`, or `VocabularyTokenizer`.

        Raises:
            UserError: the file of the vocabulary cannot be read.
        """
        vocabulary = self._read()
        if vocabulary is None:
            return super().tokenizer()
        from swamp_dist.encoders.vocabulary import VocabularyTokenizer

        return VocabularyTokenizer(vocabulary, self.max_words)

    def start_problem(self, spec: InputSpec, from_files: bool) -> str | None:
        """A vocabulary whose file is not there or cannot be read."""
        try:
            self._read()
        except UserError as error:
            return str(error)
        return None

    def set_marks(self) -> dict[str, object]:
        """What is made of the states, and of which words."""
        vocabulary = self._read()
        words = "hashed" if vocabulary is None else vocabulary.sha256
        return {"output": self.output, "unit": self.unit, "vocabulary (sha256)": words}

    @property
    def _most_words(self) -> int:
        """Steps of a text at most."""
        return self.max_words + (0 if self.vocabulary == "hashed" else 2)

    @property
    def _vectors(self) -> int:
        """Words with a vector, the padding among them."""
        vocabulary = self._read()
        return self.buckets + 1 if vocabulary is None else len(vocabulary)

    def _read(self) -> Vocabulary | None:
        """The vocabulary; None where words are hashed."""
        if self.vocabulary == "hashed":
            return None
        if self.vocabulary == "set":
            raise UserError(
                "vocabulary = set: the shard set has no vocabulary.\n"
                "Fix: build it with one, or vocabulary=hashed, or the path of a vocabulary"
            )
        return _read_once(self.vocabulary, _version(self.vocabulary))

    def build(self, spec: InputSpec, embedding_dim: int) -> nn.Module:
        """`Gru`."""
        from swamp_dist.encoders.networks.gru import Gru

        return Gru(self._vectors, self.width, embedding_dim, self.output, self.directions, self.unit)

    def cost(self, rows: int, spec: InputSpec, embedding_dim: int) -> EncoderCost:
        """The most that `rows` texts can cost: `max_words` words each. Of every direction, three gates of
        every word's vector and of the state before it, whose first is zero and needs no gradient."""
        words, gates = rows * self._most_words, 3 * embedding_dim
        layers = [
            Layer(words, self.width, gates),
            Layer(rows, embedding_dim, gates, passes_gradient=False),
            Layer(words - rows, embedding_dim, gates),
        ]
        vectors = self._vectors * self.width
        counted_twice = self.directions * (embedding_dim + 1) * gates  # the states' weights: in two layers
        # Kept are a word's vector in every order, and for every value of a state 8 of gates, products and
        # states in each direction; then what is brought to unit length.
        saved = words * (self.directions * (self.width + 8 * embedding_dim) + self.unit * embedding_dim)
        return EncoderCost(layers * self.directions, vectors - counted_twice, saved)

    def output_dim(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Length of a state."""
        return shapes["forwards.weight_hh_l0"][1] if "forwards.weight_hh_l0" in shapes else None


@lru_cache(maxsize=8)
def _read_once(path: Path, _version: tuple[int, int] | None) -> Vocabulary:
    from swamp_dist.encoders.vocabulary import read_vocabulary

    return read_vocabulary(path)


def _version(path: Path) -> tuple[int, int] | None:
    """When a file was written, and its size: another version is read anew."""
    try:
        found = path.stat()
    except OSError:  # reading it says why
        return None
    return found.st_mtime_ns, found.st_size
