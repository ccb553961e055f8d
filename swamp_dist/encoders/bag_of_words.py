"""Texts as the mean of their words' vectors, without a vocabulary: a word's place follows from its hash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from swamp_dist.encoders.cost import EncoderCost, Layer
from swamp_dist.encoders.hashed_words import HashedWordsEncoder
from swamp_dist.records import InputSpec

if TYPE_CHECKING:
    from torch import nn


class BagOfWordsSettings(HashedWordsEncoder):
    """Mean of the learned vectors of a text's words, one Linear. Words are runs of letters, digits and _ in
    lower case; a word's vector is found by its hash, so there is no vocabulary."""

    kind: Literal["bag_of_words"] = "bag_of_words"

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
