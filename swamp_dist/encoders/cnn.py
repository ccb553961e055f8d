"""A small convolutional network for images, without weights to fetch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from swamp_dist.bounds import Width
from swamp_dist.encoders.cost import EncoderCost, Layer
from swamp_dist.encoders.encoder import Encoder, image_problem
from swamp_dist.records import InputSpec

if TYPE_CHECKING:
    from torch import nn

_MOST_DOUBLINGS = 3


class CnnSettings(Encoder):
    """Small convolutional network for images: `depth` convolutions of 3 x 3 that each halve height and width,
    the mean over places, Linear; or the Linear of every place, which stay a set."""

    kind: Literal["cnn"] = "cnn"
    depth: Annotated[int, Field(ge=1, le=12)] = 5
    """Convolutions, each with a norm over the image and ReLU."""
    width: Width = 32
    """Channels of the first convolution; the next three double them, the others keep their number."""
    places: bool = False
    """Give the places of the last convolution as a set, of which `model.sets` makes an embedding, instead of
    their mean."""
    unit: bool = False
    """Bring every place of the set to unit length; needs `places`."""

    @model_validator(mode="after")
    def _unit_is_of_places(self) -> CnnSettings:
        if self.unit and not self.places:
            raise ValueError("unit = true is of the places of a set: set places = true, or unit = false")
        return self

    @property
    def channels(self) -> list[int]:
        """Channels of every convolution."""
        return [self.width * 2 ** min(number, _MOST_DOUBLINGS) for number in range(self.depth)]

    def input_problem(self, spec: InputSpec) -> str | None:
        """Takes images with a pixel left after all convolutions."""
        problem = image_problem(self.kind, spec)
        if problem is None and spec.shape[-1] < 2 ** (self.depth - 1):
            return (
                f"encoder 'cnn' halves an image {self.depth} times (depth), which {spec.shape[-1]} pixels "
                f"(data.images.size) do not allow.\nFix: depth = {spec.shape[-1].bit_length()} at most"
            )
        return problem

    def gives_sets(self, spec: InputSpec) -> bool:
        """Of places."""
        return self.places

    def most_elements(self, spec: InputSpec) -> int:
        """Places of the last convolution."""
        side = -(-spec.shape[-1] // 2**self.depth)
        return side * side if self.places else 1

    def set_marks(self) -> dict[str, object]:
        """Whether places are a set, and of unit length."""
        return {"places": self.places, "unit": self.unit}

    def build(self, spec: InputSpec, embedding_dim: int) -> nn.Module:
        """`Cnn`."""
        from swamp_dist.encoders.networks.cnn import Cnn

        return Cnn(self.channels, embedding_dim, self.places, self.unit)

    def cost(self, rows: int, spec: InputSpec, embedding_dim: int) -> EncoderCost:
        """A convolution is a product of every place's 9 neighbours; kept are what goes into each, what its
        norm takes, and what leaves the last. Of places as a set, kept is a copy of the last map, place by
        place, and what is brought to unit length."""
        side, before = spec.shape[-1], 3
        layers, saved = [], 3 * side * side
        for channels in self.channels:
            side = -(-side // 2)
            layers.append(Layer(rows * side * side, 9 * before, channels, passes_gradient=before != 3))
            saved += 2 * channels * side * side
            before = channels
        norms, places = 2 * sum(self.channels), side * side if self.places else 1
        layers.append(Layer(rows * places, before, embedding_dim))
        kept = embedding_dim if self.unit or not self.places else 0
        return EncoderCost(layers, norms, rows * (saved + places * (before + kept)))

    def output_dim(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Length of the last layer's bias."""
        return shapes["project.bias"][0] if "convolutions.0.weight" in shapes else None
