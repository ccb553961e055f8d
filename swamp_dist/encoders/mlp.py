"""Fully connected encoder of one vector (paper, Appendix E)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from swamp_dist.bounds import Width
from swamp_dist.encoders.cost import EncoderCost, Layer
from swamp_dist.encoders.encoder import Encoder, vector_problem
from swamp_dist.records import InputSpec

if TYPE_CHECKING:
    from torch import nn


class MlpSettings(Encoder):
    """Fully connected encoder of one vector, as in the synthetic experiment (paper, Appendix E)."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Width, ...] = (50, 50)
    """Widths of the hidden layers; each is Linear + ReLU."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout after each hidden layer, in training only."""
    layer_norm: bool = False
    """Normalise the input vector (LayerNorm without parameters' bias) before the first layer."""

    def input_problem(self, spec: InputSpec) -> str | None:
        """Takes one vector per item."""
        return vector_problem(self.kind, spec)

    def build(self, spec: InputSpec, embedding_dim: int) -> nn.Module:
        """`Mlp`."""
        from swamp_dist.encoders.networks.mlp import Mlp

        return Mlp(spec.shape[0], self.hidden, embedding_dim, self.dropout, self.layer_norm)

    def cost(self, rows: int, spec: InputSpec, embedding_dim: int) -> EncoderCost:
        """A Linear per width; kept is what goes into each, and what dropout and LayerNorm need."""
        input_dim = spec.shape[0]
        widths = [input_dim, *self.hidden, embedding_dim]
        layers = [
            Layer(rows, width, after, passes_gradient=number > 0 or self.layer_norm)
            for number, (width, after) in enumerate(zip(widths, widths[1:], strict=False))
        ]
        saved = sum(widths) + (input_dim if self.layer_norm else 0)
        if self.dropout > 0:
            saved += 2 * sum(self.hidden)  # what came in and what was kept
        return EncoderCost(layers, 2 * input_dim if self.layer_norm else 0, rows * saved)

    def output_dim(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Length of the last layer's bias."""
        names = [
            name.removeprefix("layers.").removesuffix(".bias") for name in shapes if name[:7] == "layers."
        ]
        last = max((int(name) for name in names if name.isdigit()), default=0)
        return shapes.get(f"layers.{last}.bias", (None,))[0]
