"""A small convolutional network for images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from swamp_dist.encoders.networks.pixels import scale_pixels


class Cnn(nn.Module):
    """Convolutions of 3 x 3 that each halve height and width, the mean over places, Linear.

    Each is followed by a norm over all values of an image and ReLU. A norm over a batch would let an
    embedding depend on the images beside it, and so on the number of ranks.
    """

    def __init__(self, channels: Sequence[int], embedding_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(1, after), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.project = nn.Linear(channels[-1], embedding_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, S, S) uint8 -> (b, embedding_dim), not yet of unit length."""
        maps = self.convolutions(scale_pixels(pixels, (0.5,) * 3, (0.5,) * 3))
        rows: Tensor = self.project(maps.mean((2, 3)))
        return rows
