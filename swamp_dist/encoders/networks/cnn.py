"""A small convolutional network for images, as one vector or as the places of its last map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from swamp_dist.encoders.networks.pixels import scale_pixels
from swamp_dist.records import Sets


class Cnn(nn.Module):
    """Convolutions of 3 x 3 that each halve height and width, the mean over places, Linear.

    Each is followed by a norm over all values of an image and ReLU. A norm over a batch would let an
    embedding depend on the images beside it, and so on the number of ranks.
    """

    def __init__(
        self, channels: Sequence[int], embedding_dim: int, places: bool = False, unit: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(1, after), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.project = nn.Linear(channels[-1], embedding_dim)
        self.places, self.unit = places, unit

    def forward(self, pixels: Tensor) -> Tensor | Sets:
        """(b, 3, S, S) uint8 -> (b, embedding_dim), not yet of unit length; with `places` a set (b, n,
        embedding_dim) of the last map's n places, row by row, of unit length if `unit`."""
        maps = self.convolutions(scale_pixels(pixels, (0.5,) * 3, (0.5,) * 3))
        if self.places:
            elements: Tensor = self.project(maps.flatten(2).transpose(1, 2))
            values = functional.normalize(elements, dim=-1) if self.unit else elements
            return Sets(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))
        rows: Tensor = self.project(maps.mean((2, 3)))
        return rows
