"""What the encoders cost a rank, counted: operations, parameters, activations, and the engine's bytes. No tensors.

Shape letters: b pairs on this rank, D embedding size, P parameters of the whole model, W ranks. Only matrix
products are counted as operations; sizes are in bytes of float32 unless told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from swamp_dist.config import EncoderSettings, GatedSettings, MlpSettings

FLOAT = 4


@dataclass(frozen=True)
class Layer:
    """A Linear: rows (n, inputs) -> (n, outputs)."""

    rows: int
    inputs: int
    outputs: int
    passes_gradient: bool = True
    """False where nothing before it is trained, so that its inputs need no gradient."""

    @property
    def forward_flops(self) -> int:
        """2 n inputs outputs."""
        return 2 * self.rows * self.inputs * self.outputs

    @property
    def flops(self) -> int:
        """Forward, gradient of the weights and, unless it is the first, gradient of the inputs."""
        return self.forward_flops * (3 if self.passes_gradient else 2)

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return (self.inputs + 1) * self.outputs


@dataclass(frozen=True)
class EncoderCost:
    """One encoder on `rows` inputs of a rank."""

    layers: Sequence[Layer]
    more_parameters: int
    """Those of no Linear."""
    saved_floats: int
    """Values kept for the backward pass, the inputs included."""

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return sum(layer.parameters for layer in self.layers) + self.more_parameters

    @property
    def flops(self) -> int:
        """Operations of a forward and a backward pass."""
        return sum(layer.flops for layer in self.layers)

    @property
    def forward_flops(self) -> int:
        """Operations of a forward pass alone."""
        return sum(layer.forward_flops for layer in self.layers)


def encoder_cost(
    settings: EncoderSettings, rows: int, input_dim: int, embedding_dim: int, words: int = 0
) -> EncoderCost:
    """The cost of an encoder on `rows` inputs.

    Args:
        settings: which encoder.
        rows: inputs b of the rank.
        input_dim: length of a vector, or of a word's vector.
        embedding_dim: D.
        words: distinct words of the rank's captions with the padding, for encoders of words.
    """
    match settings:
        case MlpSettings():
            return _mlp(settings, rows, input_dim, embedding_dim)
        case GatedSettings():
            layers = _gated(rows, input_dim, embedding_dim, passes_gradient=False)
            return EncoderCost(layers, 0, rows * (input_dim + 3 * embedding_dim))
        case _:
            width = settings.sentence_dim or embedding_dim
            first = Layer(words, input_dim, width, passes_gradient=False)
            layers = [first, *_gated(rows, width, embedding_dim, passes_gradient=True)]
            # Of the maximum: where it came from, 8 bytes each, and its value.
            of_words = words * (input_dim + width) + rows * 3 * width
            return EncoderCost(layers, 0, of_words + rows * 3 * embedding_dim)


def _gated(rows: int, input_dim: int, embedding_dim: int, passes_gradient: bool) -> list[Layer]:
    return [
        Layer(rows, input_dim, embedding_dim, passes_gradient),
        Layer(rows, embedding_dim, embedding_dim),
    ]


def _mlp(settings: MlpSettings, rows: int, input_dim: int, embedding_dim: int) -> EncoderCost:
    widths = [input_dim, *settings.hidden, embedding_dim]
    layers = [
        Layer(rows, width, after, passes_gradient=number > 0 or settings.layer_norm)
        for number, (width, after) in enumerate(zip(widths, widths[1:], strict=False))
    ]
    saved = sum(widths) + (input_dim if settings.layer_norm else 0)
    if settings.dropout > 0:
        saved += 2 * sum(settings.hidden)  # what came in and what was kept
    return EncoderCost(layers, 2 * input_dim if settings.layer_norm else 0, rows * saved)


# -- the engine ------------------------------------------------------------------------------------


def engine_bytes(parameters: int, world_size: int, zero_stage: int) -> dict[str, int]:
    """Bytes of a rank for P parameters in float32 under Adam: weights, gradients and what the optimiser holds.

    The optimiser holds two moments; at stages 1 to 3 also a copy of the weights that it updates, in DeepSpeed
    even of float32 ones. Stage 1 shares its part out, stage 2 gradients too, stage 3 weights too; while a
    layer runs, stage 3 holds its whole weights in addition.
    """
    whole, share = FLOAT * parameters, FLOAT * math.ceil(parameters / world_size)
    return {
        "weights": share if zero_stage == 3 else whole,
        "gradients": share if zero_stage >= 2 else whole,
        "optimiser": 2 * whole if zero_stage == 0 else 3 * share,
    }


def engine_traffic(parameters: int, world_size: int, zero_stage: int) -> dict[str, int]:
    """Bytes a rank sends on a ring in a step to keep P float32 parameters equal.

    Stage 0 sums gradients everywhere; 1 and 2 sum each where it is applied and hand the new weights round;
    3 hands weights round for the forward and for the backward pass.
    """
    once = math.ceil(FLOAT * parameters * (world_size - 1) / world_size)
    if zero_stage == 0:
        return {"gradients": 2 * once}
    return {"gradients": once, "weights": once * (2 if zero_stage == 3 else 1)}
