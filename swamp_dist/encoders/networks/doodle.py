"""The networks of Doodle2Search (Dey et al., CVPR 2019): convolutions, attention, an MLP over all places."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from swamp_dist.encoders.networks.pixels import scale_pixels

VGG16: tuple[int | None, ...] = (
    64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512, None
)  # fmt: skip
"""Channels of the convolutions of VGG-16 (Simonyan and Zisserman 2015, table 1, D); None halves the map."""
LAST_LAYER = "classifier.6."
"""Begins the names of the layer that classifies in published weights and embeds here."""


@final
class Attention(nn.Module):
    """x + x * m, where m is a softmax over the places of two convolutions of 1 x 1 without a nonlinearity
    between them."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, width, 1)
        self.narrow = nn.Conv2d(width, 1, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(b, C, h, w) -> (b, C, h, w)."""
        scores: Tensor = self.narrow(self.wide(maps))
        mask = torch.softmax(scores.flatten(1), dim=1).view_as(scores)
        return maps + maps * mask


def classifier(inputs: int, hidden: int, embedding_dim: int, dropout: float) -> nn.Sequential:
    """VGG's three Linear layers, the last one giving the embedding; places in the list are torchvision's."""
    layers: list[nn.Module] = []
    for width in (inputs, hidden):
        layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(hidden, embedding_dim))


class DoodleNetwork(nn.Module, ABC):
    """What both networks have in common."""

    def __init__(
        self,
        attention: nn.Module | None,
        mlp: nn.Sequential,
        scaling: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        super().__init__()
        self.attention = attention
        self.classifier = mlp
        self._mean, self._deviation = scaling

    @abstractmethod
    def maps(self, pixels: Tensor) -> Tensor:
        """(b, 3, S, S) floats -> (b, C, h, w)."""

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, S, S) uint8 -> (b, embedding_dim), not yet of unit length."""
        maps = self.maps(scale_pixels(pixels, self._mean, self._deviation))
        if self.attention is not None:
            maps = self.attention(maps)
        rows: Tensor = self.classifier(maps.flatten(1))
        return rows


@final
class StillNorm(nn.BatchNorm2d):
    """BatchNorm by the statistics that it holds, in training too; scale and shift are learned.

    Statistics of a batch would let an embedding depend on the images beside it, so on the number of ranks.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.eval()

    def train(self, mode: bool = True) -> StillNorm:
        """Stays in evaluation mode."""
        super().train(False)
        return self


@final
class Vgg16Bn(DoodleNetwork):
    """VGG-16 with BatchNorm under torchvision's names, attention behind its features."""

    def __init__(
        self,
        attention: nn.Module | None,
        mlp: nn.Sequential,
        scaling: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        super().__init__(attention, mlp, scaling)
        layers: list[nn.Module] = []
        before = 3
        for channels in VGG16:
            if channels is None:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(before, channels, 3, padding=1), StillNorm(channels), nn.ReLU()]
            before = channels
        self.features = nn.Sequential(*layers)
        self._draw()

    def _draw(self) -> None:
        """Random weights as torchvision draws them."""
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for module in self.classifier:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def maps(self, pixels: Tensor) -> Tensor:
        """(b, 3, S, S) floats -> (b, 512, S // 32, S // 32)."""
        found: Tensor = self.features(pixels)
        return found

    def load(self, weights: Path) -> None:
        """Take features and hidden layers from a file whose header was checked."""
        given = {name: x for name, x in load_file(weights).items() if not name.startswith(LAST_LAYER)}
        self.load_state_dict({**self.state_dict(), **given})


@final
class DoodleCnn(DoodleNetwork):
    """Convolutions of 3 x 3 that each halve height and width, with a norm over all values of an image."""

    def __init__(
        self,
        channels: Sequence[int],
        attention: nn.Module | None,
        mlp: nn.Sequential,
        scaling: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        super().__init__(attention, mlp, scaling)
        layers: list[nn.Module] = []
        for before, after in zip((3, *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(1, after), nn.ReLU()]
        self.blocks = nn.Sequential(*layers)

    def maps(self, pixels: Tensor) -> Tensor:
        """(b, 3, S, S) floats -> (b, C, h, w)."""
        found: Tensor = self.blocks(pixels)
        return found
