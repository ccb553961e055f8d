"""VGG-16 with BatchNorm, as Doodle2Search uses it, with weights from a local file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from swamp_dist.bounds import Width
from swamp_dist.encoders.cost import EncoderCost, Layer
from swamp_dist.encoders.doodle import PIXELS, DoodleEncoder, build_tail, join_costs, tail_cost, tail_parts
from swamp_dist.encoders.encoder import image_problem
from swamp_dist.encoders.pretrained import other_weights_problem
from swamp_dist.errors import UserError
from swamp_dist.records import InputSpec
from swamp_dist.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import nn

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of convolutions between two halvings of the map (VGG-16, D)."""
_CHANNELS = 512
_NORM = ("weight", "bias", "running_mean", "running_var")
_LAST = "classifier.6."


class Vgg16BnSettings(DoodleEncoder):
    """VGG-16 with BatchNorm (Simonyan and Zisserman 2015), the image and the sketch encoder of Doodle2Search
    (Dey et al. 2019): its convolutions, attention, an MLP over all places. BatchNorm keeps the statistics of
    the weights, so that no number depends on the ranks; the published code takes those of each batch."""

    kind: Literal["vgg16_bn"] = "vgg16_bn"
    hidden: Width = 4096
    """Width of the two hidden layers."""
    weights: Path | None = None
    """A .safetensors file of ImageNet weights under torchvision's names (vgg16_bn), relative to the file that
    says it; nothing is downloaded. Its last layer, which classifies, is left out. null = random weights. Read
    at the start of a training without `train.init_from`."""

    def input_problem(self, spec: InputSpec) -> str | None:
        """Takes images of 32 pixels and more."""
        problem = image_problem(self.kind, spec)
        if problem is None and spec.shape[-1] < 32:
            return (
                f"encoder 'vgg16_bn' halves an image 5 times, which {spec.shape[-1]} pixels "
                "(data.images.size) do not allow.\nFix: data.images.size = 32 at least, 224 as published"
            )
        return problem

    def start_problem(self, spec: InputSpec, from_files: bool) -> str | None:
        """The header of the weights."""
        if self.weights is None or not from_files:
            return None
        try:
            header = read_header(self.weights).shapes
        except UserError as error:
            fix = "" if self.weights.exists() else f"\nFix: {_to_get(self.weights)}"
            return f"encoder vgg16_bn: weights: {error}{fix}"
        found = {
            name: shape
            for name, shape in header.items()
            if not name.startswith(_LAST) and not name.endswith("num_batches_tracked")
        }
        first = "classifier.0.weight"
        expected = _published_shapes(_places(spec), self.hidden)
        if (
            found.keys() == expected.keys()
            and found[first] != expected[first]
            and found[first][0] == self.hidden
        ):
            return (
                f"encoder vgg16_bn: {self.weights} takes {found[first][1]:,} values of a last map, and "
                f"images of {spec.shape[-1]} pixels give {expected[first][1]:,}.\n"
                "Fix: data.images.size = 224, which published weights were trained with; or weights = null"
            )
        problem = other_weights_problem(found, expected, str(self.weights), "vgg16_bn of torchvision")
        return None if problem is None else f"encoder vgg16_bn: {problem}"

    def build(self, spec: InputSpec, embedding_dim: int) -> nn.Module:
        """`Vgg16Bn`."""
        from swamp_dist.encoders.networks.doodle import Vgg16Bn

        attention, mlp = build_tail(self, _CHANNELS, _places(spec), self.hidden, embedding_dim)
        return Vgg16Bn(attention, mlp, PIXELS[self.pixels])

    def load_start(self, network: nn.Module) -> None:
        """The weights of the file, if there is one."""
        from swamp_dist.encoders.networks.doodle import Vgg16Bn

        if self.weights is not None and isinstance(network, Vgg16Bn):
            network.load(self.weights)

    def own_files(self, from_files: bool) -> Mapping[str, Sequence[Path]]:
        """The file of weights, where it is read."""
        return {"weights": [self.weights]} if from_files and self.weights is not None else {}

    def cost(self, rows: int, spec: InputSpec, embedding_dim: int) -> EncoderCost:
        """A convolution is a product of every place's 9 neighbours; kept are what goes into it and into its
        norm, and of a halving what it left and where from."""
        side, before = spec.shape[-1], 3
        layers, saved, norms = [], 3 * side * side, 0
        for channels, count in _BLOCKS:
            for _ in range(count):
                layers.append(Layer(rows * side * side, 9 * before, channels, passes_gradient=before != 3))
                saved += 2 * channels * side * side
                norms += 2 * channels
                before = channels
            side //= 2
            saved += 3 * channels * side * side
        trunk = EncoderCost(layers, norms, rows * saved)
        return join_costs([trunk, tail_cost(rows, _CHANNELS, side * side, self.hidden, embedding_dim, self)])

    def output_dim(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Length of the last layer's bias."""
        return shapes[f"{_LAST}bias"][0] if "features.40.weight" in shapes else None


def _to_get(file: Path) -> str:
    """How to come by the weights, which are not downloaded: torchvision's, converted."""
    return (
        'weights: null for random ones; or convert those of torchvision:\n  python -c "import torch, '
        "safetensors.torch as s; s.save_file(torch.load('vgg16_bn-6c64b313.pth'), "
        f"'{file}')\""
    )


def _places(spec: InputSpec) -> int:
    side: int = spec.shape[-1] // 32
    return side * side


def _published_shapes(places: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Tensors of torchvision's vgg16_bn by name, its last layer and counts of batches left out."""
    shapes: dict[str, tuple[int, ...]] = {}
    number, before = 0, 3
    for channels, count in _BLOCKS:
        for _ in range(count):
            shapes |= {
                f"features.{number}.weight": (channels, before, 3, 3),
                f"features.{number}.bias": (channels,),
            }
            shapes |= {f"features.{number + 1}.{name}": (channels,) for name in _NORM}
            number, before = number + 3, channels
        number += 1
    for layer, (inputs, outputs) in zip((0, 3), tail_parts(_CHANNELS, places, hidden, 1), strict=False):
        shapes |= {
            f"classifier.{layer}.weight": (outputs, inputs),
            f"classifier.{layer}.bias": (outputs,),
        }
    return shapes
