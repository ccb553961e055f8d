"""The two encoders."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from swamp_dist.config.settings import Settings


class MlpSettings(Settings):
    """Fully connected encoder of one vector, as in the synthetic experiment (paper, Appendix E)."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = (50, 50)
    """Widths of the hidden layers; each is Linear + ReLU."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout after each hidden layer, in training only."""
    layer_norm: bool = False
    """Normalise the input vector (LayerNorm without parameters' bias) before the first layer."""


class GatedSettings(Settings):
    """Gated unit of Miech et al. 2019 on one pooled vector: Linear, context gating, unit length."""

    kind: Literal["gated"] = "gated"
    unit_parts: tuple[PositiveInt, ...] | None = None
    """Widths of the consecutive parts of the vector that are each brought to unit length first, for
    example [2048, 2048] for 2D and 3D video features; null takes the vector as it is."""


class WordsSettings(Settings):
    """Text encoder of Miech et al. 2019: Linear and ReLU of every word, the largest over the caption's
    words (padding included, as published), gated unit."""

    kind: Literal["words"] = "words"
    sentence_dim: PositiveInt | None = None
    """Length of a word after the first layer; null = `embedding_dim`."""


EncoderSettings = Annotated[MlpSettings | GatedSettings | WordsSettings, Field(discriminator="kind")]


class ModelSettings(Settings):
    """The two encoders; the prototypes live with the objective's settings."""

    embedding_dim: PositiveInt | None = 4096
    """Length D of the shared embedding; both encoders end in unit-length vectors of this size. null
    takes it from the weights that the stage starts from (`train.init_from`, `weights`)."""
    a: EncoderSettings = GatedSettings()
    """Encoder of modality A."""
    b: EncoderSettings = GatedSettings()
    """Encoder of modality B."""
