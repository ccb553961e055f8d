"""What the encoders of Doodle2Search share: attention over the last map, and an MLP over all its places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from swamp_dist.bounds import Width
from swamp_dist.encoders.cost import EncoderCost, Layer
from swamp_dist.encoders.encoder import Encoder

if TYPE_CHECKING:
    from torch import nn

ATTENTION_WIDTH = 380
"""Channels between the two convolutions of the attention (Dey et al. 2019, their code)."""
PIXELS = {
    "unit": ((0.0,) * 3, (1.0,) * 3),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and deviation that pixels / 255 are scaled by, by the name of `pixels`."""


class DoodleEncoder(Encoder):
    """Convolutions, attention, and an MLP over all places of the last map (Dey et al. 2019, section 3.1)."""

    attention: bool = True
    """Weigh the places of the last map: x + x * softmax over places of two convolutions of 1 x 1. In the
    paper; the published code leaves it out unless asked."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Dropout after each of the two hidden layers, in training only."""
    pixels: Literal["unit", "imagenet"] = "unit"
    """`unit`: pixels / 255, as the published code feeds them; `imagenet`: brought to ImageNet's mean and
    deviation besides, which the published weights of a VGG were trained with."""


def tail_parts(channels: int, places: int, hidden: Width, embedding_dim: int) -> list[tuple[int, int]]:
    """Inputs and outputs of the three Linear layers behind a map of so many channels and places."""
    return [(channels * places, hidden), (hidden, hidden), (hidden, embedding_dim)]


def tail_cost(
    rows: int, channels: int, places: int, hidden: Width, embedding_dim: int, encoder: DoodleEncoder
) -> EncoderCost:
    """Attention and MLP over a last map (channels, places) of each row; what goes into a layer is kept, of
    dropout also what was drawn. The map itself is counted by the convolutions."""
    layers, saved = [], embedding_dim
    if encoder.attention:
        layers += [
            Layer(rows * places, channels, ATTENTION_WIDTH),
            Layer(rows * places, ATTENTION_WIDTH, 1),
        ]
        saved += places * (ATTENTION_WIDTH + channels + 1)
    layers += [
        Layer(rows, before, after) for before, after in tail_parts(channels, places, hidden, embedding_dim)
    ]
    saved += 2 * hidden * (3 if encoder.dropout > 0 else 1)
    return EncoderCost(layers, 0, rows * saved)


def join_costs(parts: Sequence[EncoderCost]) -> EncoderCost:
    """The cost of parts of one network, one after another."""
    return EncoderCost(
        [layer for part in parts for layer in part.layers],
        sum(part.more_parameters for part in parts),
        sum(part.saved_floats for part in parts),
    )


def build_tail(
    encoder: DoodleEncoder, channels: int, places: int, hidden: Width, embedding_dim: int
) -> tuple[nn.Module | None, nn.Sequential]:
    """Attention or None, and the MLP."""
    from swamp_dist.encoders.networks.doodle import Attention, classifier

    attention = Attention(channels, ATTENTION_WIDTH) if encoder.attention else None
    return attention, classifier(channels * places, hidden, embedding_dim, encoder.dropout)
