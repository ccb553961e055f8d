"""Images by any model of timm, with weights from a local file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from swamp_dist.encoders.cost import EncoderCost
from swamp_dist.encoders.encoder import Encoder, image_problem
from swamp_dist.encoders.libraries import need_library
from swamp_dist.encoders.pretrained import Trained, other_weights_problem
from swamp_dist.errors import UserError
from swamp_dist.records import InputSpec
from swamp_dist.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import nn

    from swamp_dist.encoders.networks.timm import ImageModel


class TimmSettings(Encoder):
    """Any image model of timm without its classifier, and a Linear to the embedding. Mean and deviation of
    pixels are the model's own. BatchNorm keeps its statistics, so that no number depends on the ranks."""

    kind: Literal["timm"] = "timm"
    name: Annotated[str, Field(min_length=1, max_length=200)]
    """A name of `timm.list_models()`, or with the tag of how it was trained, such as
    vit_base_patch16_224.augreg2_in21k_ft_in1k: the tag tells mean and deviation."""
    weights: Path | None = None
    """A .safetensors file with the model's weights, as timm publishes them, relative to the file that says
    it; nothing is downloaded. null = random weights. Read at the start of a training without
    `train.init_from`."""
    train: Trained = "all"
    """all, none (a locked tower: only the Linear is trained), or a number n: the last n blocks, as timm
    groups a model for learning rates by layer."""

    def input_problem(self, spec: InputSpec) -> str | None:
        """Takes images."""
        return image_problem(self.kind, spec)

    def start_problem(self, spec: InputSpec, from_files: bool) -> str | None:
        """The library, the name, the size of an image, and the weights' header."""
        try:
            model = _model(self.name)
        except UserError as error:
            return str(error)
        if (problem := self._size_problem(model, spec)) is not None or not from_files:
            return problem
        if self.weights is not None:
            return self._weights_problem(model)
        if self.train != "all":
            return (
                f"encoder timm: train = {self.train} would leave random weights of {self.name} as they are.\n"
                "Fix: name its weights (weights), or set train to all"
            )
        return None

    def build(self, spec: InputSpec, embedding_dim: int) -> nn.Module:
        """`TimmNetwork`."""
        from swamp_dist.encoders.networks.timm import TimmNetwork

        return TimmNetwork(self.name, self.train, embedding_dim)

    def load_start(self, network: nn.Module) -> None:
        """The weights of the file, if there is one."""
        from swamp_dist.encoders.networks.timm import TimmNetwork

        if self.weights is not None and isinstance(network, TimmNetwork):
            network.load(self.weights, _model(self.name).classifier)

    def own_files(self, from_files: bool) -> Mapping[str, Sequence[Path]]:
        """The file of weights, where it is read."""
        return {"weights": [self.weights]} if from_files and self.weights is not None else {}

    def libraries(self) -> tuple[str, ...]:
        """timm, and torchvision that it imports."""
        return "timm", "torchvision"

    def cost(self, rows: int, spec: InputSpec, embedding_dim: int) -> EncoderCost:
        """Counted on the network itself, on the meta device: no formula covers every model.

        Raises:
            UserError: as `start_problem` tells of library and name.
        """
        _model(self.name)
        from swamp_dist.encoders.networks.counting import count_images

        return count_images(self, spec, embedding_dim).times(rows)

    def output_dim(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Length of the last layer's bias."""
        return shapes["project.bias"][0] if any(name.startswith("timm.") for name in shapes) else None

    def _size_problem(self, model: ImageModel, spec: InputSpec) -> str | None:
        channels, *size = model.input_size
        if channels != 3:
            return f"encoder timm: {self.name} takes {channels} channels, images have 3.\nFix: another model"
        if model.fixed_size and size != list(spec.shape[1:]):
            return (
                f"encoder timm: {self.name} takes images of {size[0]} x {size[1]} pixels, data.images.size "
                f"gives {spec.shape[1]} x {spec.shape[2]}.\nFix: data.images.size={size[0]}, or another model"
            )
        return None

    def _weights_problem(self, model: ImageModel) -> str | None:
        from swamp_dist.encoders.networks.timm import comparable

        assert self.weights is not None
        try:
            found = comparable(read_header(self.weights).shapes, model.classifier)
        except UserError as error:
            return f"encoder timm: weights: {error}"
        expected = comparable(model.shapes, ())
        problem = other_weights_problem(found, expected, str(self.weights), self.name)
        return None if problem is None else f"encoder timm: {problem}"


@lru_cache(maxsize=8)
def _model(name: str) -> ImageModel:
    """What timm says of a model.

    Raises:
        UserError: timm is not installed, or has none of the name; the nearest names are told.
    """
    need_library("timm", "timm")
    from swamp_dist.encoders.networks.timm import describe_model, known_names

    known = known_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
        said = f"Nearest names: {', '.join(near)}" if near else "No name is like it"
        raise UserError(f"encoder timm: no model {name!r} in timm.\n{said}; timm.list_models() lists all")
    return describe_model(name)
