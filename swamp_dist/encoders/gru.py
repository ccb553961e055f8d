"""Texts by a bidirectional GRU over hashed words; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from swamp_dist.bounds import Width
from swamp_dist.encoders.cost import EncoderCost, Layer
from swamp_dist.encoders.hashed_words import HashedWordsEncoder
from swamp_dist.records import InputSpec

if TYPE_CHECKING:
    from torch import nn


class GruSettings(HashedWordsEncoder):
    """Bidirectional GRU over the learned vectors of a text's words, mean of both directions and of the words,
    after SCAN's text encoder. Words are found by their hashes, as for `bag_of_words`."""

    kind: Literal["gru"] = "gru"
    width: Width = 300
    """Length of a word's vector."""

    def build(self, spec: InputSpec, embedding_dim: int) -> nn.Module:
        """`BidirectionalGru`."""
        from swamp_dist.encoders.networks.gru import BidirectionalGru

        return BidirectionalGru(self.buckets, self.width, embedding_dim)

    def cost(self, rows: int, spec: InputSpec, embedding_dim: int) -> EncoderCost:
        """The most that `rows` texts can cost: `max_words` words each. Of both directions, three gates of
        every word's vector and of the state before it, whose first is zero and needs no gradient."""
        words, gates = rows * self.max_words, 3 * embedding_dim
        layers = [
            Layer(words, self.width, gates),
            Layer(rows, embedding_dim, gates, passes_gradient=False),
            Layer(words - rows, embedding_dim, gates),
        ]
        vectors = (self.buckets + 1) * self.width
        counted_twice = 2 * (embedding_dim + 1) * gates  # the weights of the states stand in two layers
        # Kept are a word's vector in both orders, and for every value of a state 8 of gates, products and
        # states in each direction; then the mean of both.
        saved = words * (2 * self.width + 17 * embedding_dim)
        return EncoderCost(layers * 2, vectors - counted_twice, saved)

    def output_dim(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Length of a state."""
        return shapes["forwards.weight_hh_l0"][1] if "forwards.weight_hh_l0" in shapes else None
