"""Captions as words of a frozen table (Miech et al. 2019, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from swamp_dist.bounds import Width
from swamp_dist.encoders.cost import EncoderCost, Layer
from swamp_dist.encoders.encoder import Encoder, words_problem
from swamp_dist.encoders.gated import gated_layers
from swamp_dist.records import InputSpec

if TYPE_CHECKING:
    from torch import nn

_PUBLISHED = InputSpec((20,), word_dim=300)
"""Words kept of a caption and length of a word's vector, as published."""


class WordsSettings(Encoder):
    """Text encoder of Miech et al. 2019: Linear and ReLU of every word, the largest over the caption's
    words (padding included, as published), gated unit."""

    kind: Literal["words"] = "words"
    sentence_dim: Width | None = None
    """Length of a word after the first layer; null = `embedding_dim`."""

    def input_problem(self, spec: InputSpec) -> str | None:
        """Takes words, one caption per item."""
        return words_problem(self.kind, spec)

    def build(self, spec: InputSpec, embedding_dim: int) -> nn.Module:
        """`WordsEncoder`."""
        from swamp_dist.encoders.networks.words import WordsEncoder

        return WordsEncoder(_word_dim(spec), self.sentence_dim or embedding_dim, embedding_dim)

    def cost(self, rows: int, spec: InputSpec, embedding_dim: int) -> EncoderCost:
        """The most that `rows` captions can cost: every word another one, and the padding."""
        word_dim = _word_dim(spec)
        words = rows * spec.shape[0] + 1
        width = self.sentence_dim or embedding_dim
        first = Layer(words, word_dim, width, passes_gradient=False)
        layers = [first, *gated_layers(rows, width, embedding_dim, passes_gradient=True)]
        # Of the maximum: where it came from, 8 bytes each, and its value.
        of_words = words * (word_dim + width) + rows * 3 * width
        return EncoderCost(layers, 0, of_words + rows * 3 * embedding_dim)

    def output_dim(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Length of the last gate's bias."""
        return shapes["unit.gate.bias"][0] if "unit.gate.bias" in shapes else None

    def configured_input(self) -> InputSpec:
        """Captions and word vectors as published."""
        return _PUBLISHED


def _word_dim(spec: InputSpec) -> int:
    if spec.word_dim is None:
        raise ValueError("the field holds no words: `input_problem` says so before an encoder is built")
    return spec.word_dim
