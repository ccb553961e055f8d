"""A small network of the form of Doodle2Search's, for machines without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from swamp_dist.bounds import Width
from swamp_dist.encoders.cost import EncoderCost, Layer
from swamp_dist.encoders.doodle import PIXELS, DoodleEncoder, build_tail, join_costs, tail_cost
from swamp_dist.encoders.encoder import image_problem
from swamp_dist.records import InputSpec

if TYPE_CHECKING:
    from torch import nn

_LAST = "classifier.6.bias"


class DoodleCnnSettings(DoodleEncoder):
    """Small network of the form of Doodle2Search's (Dey et al. 2019): convolutions of 3 x 3 that each halve
    height and width, attention, an MLP over all places. Its norm is over an image and not over a batch, so
    that no number depends on the ranks."""

    kind: Literal["doodle_cnn"] = "doodle_cnn"
    channels: Annotated[tuple[Width, ...], Field(min_length=1, max_length=12)] = (32, 64, 128, 128)
    """Channels of the convolutions, each with a norm over the image and ReLU."""
    hidden: Width = 256
    """Width of the two hidden layers."""

    def input_problem(self, spec: InputSpec) -> str | None:
        """Takes images with a pixel left after all convolutions."""
        problem, depth = image_problem(self.kind, spec), len(self.channels)
        if problem is None and spec.shape[-1] < 2 ** (depth - 1):
            return (
                f"encoder 'doodle_cnn' halves an image {depth} times (channels), which {spec.shape[-1]} "
                "pixels (data.images.size) do not allow.\n"
                f"Fix: {spec.shape[-1].bit_length()} channels at most"
            )
        return problem

    def build(self, spec: InputSpec, embedding_dim: int) -> nn.Module:
        """`DoodleCnn`."""
        from swamp_dist.encoders.networks.doodle import DoodleCnn

        places = self._sides(spec)[-1] ** 2
        attention, mlp = build_tail(self, self.channels[-1], places, self.hidden, embedding_dim)
        return DoodleCnn(self.channels, attention, mlp, PIXELS[self.pixels])

    def cost(self, rows: int, spec: InputSpec, embedding_dim: int) -> EncoderCost:
        """A convolution is a product of every place's 9 neighbours; kept are what goes into each, what its
        norm takes, and what leaves the last."""
        sides, before = self._sides(spec), 3
        layers, saved = [], 3 * sides[0] ** 2
        for side, channels in zip(sides[1:], self.channels, strict=True):
            layers.append(Layer(rows * side * side, 9 * before, channels, passes_gradient=before != 3))
            saved += 2 * channels * side * side
            before = channels
        trunk = EncoderCost(layers, 2 * sum(self.channels), rows * saved)
        tail = tail_cost(rows, before, sides[-1] ** 2, self.hidden, embedding_dim, self)
        return join_costs([trunk, tail])

    def output_dim(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Length of the last layer's bias."""
        return shapes[_LAST][0] if "blocks.0.weight" in shapes else None

    def _sides(self, spec: InputSpec) -> list[int]:
        """Height of the image and of the map after every convolution."""
        sides: list[int] = [spec.shape[-1]]
        for _ in self.channels:
            sides.append(-(-sides[-1] // 2))
        return sides
