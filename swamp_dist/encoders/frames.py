"""A small convolutional network for the frames of short clips, pooled or as a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from swamp_dist.bounds import Count, Width
from swamp_dist.encoders.cost import EncoderCost, Layer
from swamp_dist.encoders.encoder import Encoder, frames_problem
from swamp_dist.records import InputSpec

if TYPE_CHECKING:
    from torch import nn

_MOST_DOUBLINGS = 3


class FramesSettings(Encoder):
    """Small convolutional network for clips of raw frames: `depth` convolutions of 3 x 3 that each halve
    height and width, one Linear of the whole last map, which keeps where things are; then the mean over the
    frames, or the frames as a set."""

    kind: Literal["frames"] = "frames"
    depth: Annotated[int, Field(ge=1, le=12)] = 4
    """Convolutions of a frame, each with a norm over the frame and ReLU."""
    width: Width = 16
    """Channels of the first convolution; the next three double them, the others keep their number."""
    output: Literal["mean", "frames"] = "mean"
    """What is made of the frames: their mean, which knows no order; or `frames`, the set of all, each with a
    learned vector of its place in time added, of which `model.sets` makes an embedding."""
    unit: bool = False
    """Bring every frame of the set to unit length; needs `output: frames`."""
    still: Count | None = None
    """Number, from 1, of a frame that stands in the place of all: what the same network can do without
    motion. null takes every frame as it is."""

    @model_validator(mode="after")
    def _unit_is_of_frames(self) -> FramesSettings:
        if self.unit and self.output != "frames":
            raise ValueError("unit = true is of the frames of a set: set output = frames, or unit = false")
        return self

    @property
    def channels(self) -> list[int]:
        """Channels of every convolution."""
        return [self.width * 2 ** min(number, _MOST_DOUBLINGS) for number in range(self.depth)]

    def input_problem(self, spec: InputSpec) -> str | None:
        """Takes clips with a pixel left after all convolutions, and with the frame that `still` names."""
        problem = frames_problem(self.kind, spec)
        if problem is not None:
            return problem
        count, side = spec.shape[0], spec.shape[-1]
        if side < 2 ** (self.depth - 1):
            return (
                f"encoder 'frames' halves a frame {self.depth} times (depth), which {side} pixels do not "
                f"allow.\nFix: depth = {side.bit_length()} at most"
            )
        if self.still is not None and self.still > count:
            return (
                f"encoder 'frames': still = {self.still}, but clips have {count} frames.\n"
                f"Fix: still = 1 .. {count}, or null for all frames"
            )
        return None

    def gives_sets(self, spec: InputSpec) -> bool:
        """Of frames."""
        return self.output == "frames"

    def most_elements(self, spec: InputSpec) -> int:
        """Frames of a clip."""
        return spec.shape[0] if self.gives_sets(spec) else 1

    def set_marks(self) -> dict[str, object]:
        """What is made of the frames, and of which."""
        return {"output": self.output, "unit": self.unit, "still": self.still}

    def build(self, spec: InputSpec, embedding_dim: int) -> nn.Module:
        """`Frames`."""
        from swamp_dist.encoders.networks.frames import Frames

        places = spec.shape[0] if self.gives_sets(spec) else 0
        last = -(-spec.shape[-1] // 2**self.depth)  # height and width of the last map
        values = self.channels[-1] * last * last
        return Frames(self.channels, values, embedding_dim, places, self.unit, self.still)

    def cost(self, rows: int, spec: InputSpec, embedding_dim: int) -> EncoderCost:
        """Of every frame, or of the one that stands for all, what `cnn` costs with a Linear of its whole last
        map. Of frames as a set, kept is what is brought to unit length; of their mean, the mean."""
        frames = rows * (spec.shape[0] if self.still is None else 1)
        side, before = spec.shape[-1], 3
        layers, saved = [], 3 * side * side
        for channels in self.channels:
            side = -(-side // 2)
            layers.append(Layer(frames * side * side, 9 * before, channels, passes_gradient=before != 3))
            saved += 2 * channels * side * side
            before = channels
        layers.append(Layer(frames, before * side * side, embedding_dim))
        sets = self.gives_sets(spec)
        places = spec.shape[0] * embedding_dim if sets else 0
        kept = rows * embedding_dim * (int(self.unit) * spec.shape[0] if sets else 1)
        return EncoderCost(layers, 2 * sum(self.channels) + places, frames * saved + kept)

    def output_dim(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Length of the last layer's bias."""
        return shapes["of_frame.bias"][0] if "of_frame.bias" in shapes else None
