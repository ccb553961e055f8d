"""Texts as the mean of their words' vectors, without a vocabulary: a word's place follows from its hash."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from swamp_dist.bounds import Width
from swamp_dist.encoders.cost import EncoderCost, Layer
from swamp_dist.encoders.encoder import Encoder, Tokenizer, text_problem
from swamp_dist.records import InputSpec, Tokens

if TYPE_CHECKING:
    from torch import nn

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class HashedWords:
    """Words of lower-cased texts, each as 1 + xxh3(word) mod `buckets`; 0 is padding."""

    buckets: int
    max_words: int

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """As `Tokenizer`: the first `max_words` words of every text."""
        import torch

        rows = [self._row(text) for text in texts]
        width = max(1, *(len(row) for row in rows)) if rows else 1
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int64)
        ids = ids.view(len(rows), width)
        return Tokens(ids, ids > 0)

    def _row(self, text: str) -> list[int]:
        from xxhash import xxh3_64_intdigest

        words = _WORD.findall(text.lower())[: self.max_words]
        return [1 + xxh3_64_intdigest(word.encode()) % self.buckets for word in words]


class BagOfWordsSettings(Encoder):
    """Mean of the learned vectors of a text's words, one Linear. Words are runs of letters, digits and _ in
    lower case; a word's vector is found by its hash, so there is no vocabulary."""

    kind: Literal["bag_of_words"] = "bag_of_words"
    buckets: Annotated[int, Field(ge=1, le=2**24)] = 2**15
    """Vectors; words whose hashes fall together share one."""
    width: Width = 256
    """Length of a word's vector."""
    max_words: Annotated[int, Field(ge=1, le=4096)] = 64
    """Words of a text that count, the first ones."""

    def input_problem(self, spec: InputSpec) -> str | None:
        """Takes texts."""
        return text_problem(self.kind, spec)

    def tokenizer(self) -> Tokenizer:
        """`HashedWords`."""
        return HashedWords(self.buckets, self.max_words)

    def build(self, spec: InputSpec, embedding_dim: int) -> nn.Module:
        """`BagOfWords`."""
        from swamp_dist.encoders.networks.bag_of_words import BagOfWords

        return BagOfWords(self.buckets, self.width, embedding_dim)

    def cost(self, rows: int, spec: InputSpec, embedding_dim: int) -> EncoderCost:
        """One product after the mean, which is none; kept are ids and bags of `max_words` words a text,
        8 bytes each, the means and the outputs."""
        layer = Layer(rows, self.width, embedding_dim)
        vectors = (self.buckets + 1) * self.width
        saved = rows * (4 * self.max_words + self.width + embedding_dim)
        return EncoderCost([layer], vectors, saved)

    def output_dim(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Length of the last layer's bias."""
        return shapes["project.bias"][0] if "bag.weight" in shapes else None

    def configured_input(self) -> InputSpec:
        """Texts, whose length the settings bound."""
        return InputSpec((), kind="text")
