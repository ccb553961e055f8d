"""A small convolutional network over the frames of a clip, as one vector or as a sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from swamp_dist.encoders.networks.pixels import scale_pixels
from swamp_dist.records import Sets

_PLACES_DEVIATION = 0.1


class Frames(nn.Module):
    """Convolutions of 3 x 3 that each halve height and width, Linear of the whole last map, for every frame;
    then their mean, or all of them with a vector of their place in time.

    Each convolution is followed by a norm over all values of a frame and ReLU, as in `Cnn`. A mean over the
    places of a map would lose where things are, and so which way they go.
    """

    def __init__(
        self,
        channels: Sequence[int],
        values: int,
        embedding_dim: int,
        places: int = 0,
        unit: bool = False,
        still: int | None = None,
    ) -> None:
        """A new network.

        Args:
            channels: of every convolution.
            values: of the last map, over all its places.
            embedding_dim: length of the embedding, or of an element.
            places: frames of a clip, which stay a set; 0 takes their mean.
            unit: bring every element of the set to unit length.
            still: number, from 1, of the frame that stands for all; None takes each.
        """
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(1, after), nn.ReLU()]
        self.maps = nn.Sequential(*layers)
        self.of_frame = nn.Linear(values, embedding_dim)
        self.places = nn.Parameter(torch.randn(places, embedding_dim) * _PLACES_DEVIATION) if places else None
        self.unit, self.still = unit, still

    def forward(self, pixels: Tensor) -> Tensor | Sets:
        """(b, F, 3, S, S) uint8 -> (b, embedding_dim), not yet of unit length; where frames stay a set (b, F,
        embedding_dim), in their order, of unit length if `unit`."""
        count = pixels.shape[1]
        # A frame that stands for all is computed once: its copies would give equal rows.
        seen = pixels if self.still is None else pixels[:, self.still - 1 : self.still]
        maps = self.maps(scale_pixels(seen.flatten(0, 1), (0.5,) * 3, (0.5,) * 3))
        rows: Tensor = self.of_frame(maps.flatten(1)).view(len(pixels), seen.shape[1], -1)
        if self.places is None:
            return rows.mean(1)
        elements = rows.expand(-1, count, -1) + self.places.to(rows.dtype)
        values = functional.normalize(elements, dim=-1) if self.unit else elements
        return Sets(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))
