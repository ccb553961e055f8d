"""One linear layer over a vector, or over every element of a set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from swamp_dist.bounds import Count
from swamp_dist.encoders.cost import EncoderCost, Layer
from swamp_dist.encoders.encoder import Encoder, linear_problem
from swamp_dist.records import InputSpec
from swamp_dist.settings import SAME_RESULT

if TYPE_CHECKING:
    from torch import nn


class LinearSettings(Encoder):
    """One linear layer: over the regions of an image, which stay a set, as in SCAN (Lee et al. 2018, section
    3.1), or over one vector of it, as in VSE++ (Faghri et al. 2018)."""

    kind: Literal["linear"] = "linear"
    unit: bool = False
    """Bring every element of a set to unit length, as SCAN does (its `no_imgnorm` off). One vector per item
    is an embedding, and always ends there."""
    elements: Annotated[Count, SAME_RESULT] = 36
    """Elements of a set that memory and operations are estimated for; a set may have any number."""

    def input_problem(self, spec: InputSpec) -> str | None:
        """Takes one vector per item, or one set of vectors."""
        return linear_problem(self.kind, spec)

    def gives_sets(self, spec: InputSpec) -> bool:
        """Of sets."""
        return spec.kind == "set"

    def most_elements(self, spec: InputSpec) -> int:
        """As set; of a vector 1."""
        return self.elements if self.gives_sets(spec) else 1

    def build(self, spec: InputSpec, embedding_dim: int) -> nn.Module:
        """`Linear`."""
        from swamp_dist.encoders.networks.linear import Linear

        return Linear(spec.shape[0], embedding_dim, self.unit)

    def cost(self, rows: int, spec: InputSpec, embedding_dim: int) -> EncoderCost:
        """One product; kept are its inputs, and its outputs where they are brought to unit length."""
        vectors, width = rows * self.most_elements(spec), spec.shape[0]
        layer = Layer(vectors, width, embedding_dim, passes_gradient=False)
        kept = embedding_dim if self.unit or not self.gives_sets(spec) else 0
        return EncoderCost([layer], 0, vectors * (width + kept))

    def output_dim(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Rows of the weight."""
        return shapes["fc.weight"][0] if shapes.keys() == {"fc.weight", "fc.bias"} else None

    def set_marks(self) -> dict[str, object]:
        """Whether elements are of unit length."""
        return {"unit": self.unit}
