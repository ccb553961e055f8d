"""Image models of timm, whole or in part frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from swamp_dist.encoders.libraries import import_timm
from swamp_dist.encoders.networks.pixels import scale_pixels
from swamp_dist.encoders.networks.pretrained import PretrainedNetwork, freeze

T = TypeVar("T")


@dataclass(frozen=True)
class ImageModel:
    """What timm says of one of its models."""

    input_size: tuple[int, int, int]
    """Channels, height and width that it was made for."""
    fixed_size: bool
    """Whether it takes images of that size only."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of its weights without the classifier."""
    classifier: tuple[str, ...]
    """Modules of a whole model that classify, and are not part of an encoder."""


def known_names() -> list[str]:
    """Names of all models, and of all with a tag that says how they were trained."""
    timm = import_timm()
    return [*timm.list_models(), *timm.list_pretrained()]


def describe_model(name: str) -> ImageModel:
    """What timm says of the model; no weights are made."""
    with torch.device("meta"):
        trunk = _create(name)
    settings = trunk.pretrained_cfg
    classifier = settings.get("classifier") or ()
    return ImageModel(
        tuple(settings["input_size"]),
        bool(settings.get("fixed_input_size")),
        {key: tuple(value.shape) for key, value in trunk.state_dict().items()},
        (classifier,) if isinstance(classifier, str) else tuple(classifier),
    )


class TimmNetwork(PretrainedNetwork):
    """A model of timm without its classifier, and a Linear from its pooled features."""

    def __init__(self, name: str, trained: str | int, embedding_dim: int) -> None:
        """The model with random weights.

        Args:
            name: one of `known_names`.
            trained: "all", "none", or how many of the last blocks.
        """
        trunk = _create(name)
        super().__init__(trunk.head_hidden_size or trunk.num_features, embedding_dim)
        self.timm: nn.Module = trunk
        self._mean, self._deviation = trunk.pretrained_cfg["mean"], trunk.pretrained_cfg["std"]
        freeze(trunk, trained, block_numbers(trunk) if isinstance(trained, int) else {})
        self.train()  # a module is in training mode from the start, and nobody has to say so

    @property
    def trunk(self) -> nn.Module:
        """timm's model."""
        return self.timm

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, S, S) uint8 -> (b, embedding_dim), not yet of unit length."""
        rows: Tensor = self.project(self.timm(scale_pixels(pixels, self._mean, self._deviation)))
        return rows

    def load(self, weights: Path, classifier: tuple[str, ...]) -> None:
        """Take the model's weights from a file whose header was checked."""
        self.timm.load_state_dict({**self.timm.state_dict(), **comparable(load_file(weights), classifier)})


def comparable(tensors: Mapping[str, T], classifier: tuple[str, ...]) -> dict[str, T]:
    """Those that every file of a model has in common: without the classifier and BatchNorm's counts of
    batches, which older files lack and nothing here reads."""
    parts = tuple(f"{name}." for name in classifier)
    return {
        name: value
        for name, value in tensors.items()
        if not name.startswith(parts) and not name.endswith(".num_batches_tracked")
    }


def block_numbers(trunk: Any) -> dict[str, int]:
    """The block of every parameter, counted as timm groups a model for learning rates by layer; what stands
    before the first block, the stem, has -1."""
    group_parameters = import_timm().models.group_parameters
    groups = group_parameters(trunk, trunk.group_matcher(coarse=False))
    return {name: number - 1 for number in sorted(groups) for name in groups[number]}


def _create(name: str) -> Any:
    return import_timm().create_model(name, pretrained=False, num_classes=0)
