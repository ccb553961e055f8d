"""Gated embedding unit on one pooled vector (Miech et al. 2019, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from swamp_dist.bounds import Width
from swamp_dist.encoders.cost import EncoderCost, Layer
from swamp_dist.encoders.encoder import Encoder, vector_problem
from swamp_dist.records import InputSpec

if TYPE_CHECKING:
    from torch import nn


class GatedSettings(Encoder):
    """Gated unit of Miech et al. 2019 on one pooled vector: Linear, context gating, unit length."""

    kind: Literal["gated"] = "gated"
    unit_parts: tuple[Width, ...] | None = None
    """Widths of the consecutive parts of the vector that are each brought to unit length first, for
    example [2048, 2048] for 2D and 3D video features; null takes the vector as it is."""

    def input_problem(self, spec: InputSpec) -> str | None:
        """Takes one vector per item, as wide as its parts."""
        problem, parts = vector_problem(self.kind, spec), self.unit_parts
        if problem is None and parts is not None and sum(parts) != spec.shape[0]:
            return (
                f"unit_parts = {list(parts)}: expected widths that add up to the {spec.shape[0]} values "
                f"of the field, found {sum(parts)}"
            )
        return problem

    def build(self, spec: InputSpec, embedding_dim: int) -> nn.Module:
        """`GatedUnit`."""
        from swamp_dist.encoders.networks.gated import GatedUnit

        return GatedUnit(spec.shape[0], embedding_dim, self.unit_parts)

    def cost(self, rows: int, spec: InputSpec, embedding_dim: int) -> EncoderCost:
        """Two Linear; kept are the input, h, the gate's values and their sigmoid."""
        width = spec.shape[0]
        layers = gated_layers(rows, width, embedding_dim, passes_gradient=False)
        return EncoderCost(layers, 0, rows * (width + 3 * embedding_dim))

    def output_dim(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Length of the gate's bias."""
        return shapes["gate.bias"][0] if "gate.bias" in shapes else None

    def configured_input(self) -> InputSpec | None:
        """A vector as wide as its parts."""
        return InputSpec((sum(self.unit_parts),)) if self.unit_parts else None

    def scaled_parts(self) -> tuple[int, ...]:
        """`unit_parts`."""
        return self.unit_parts or ()


def gated_layers(rows: int, input_dim: int, embedding_dim: int, passes_gradient: bool) -> list[Layer]:
    """The Linear of a gated unit; `passes_gradient` where something before it is trained."""
    return [
        Layer(rows, input_dim, embedding_dim, passes_gradient),
        Layer(rows, embedding_dim, embedding_dim),
    ]
