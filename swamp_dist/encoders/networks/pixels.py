"""Pixels as the loader sends them, 8 bits each, to the floats that a network takes, on its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def scale_pixels(pixels: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """(b, 3, S, S) uint8 -> float32: (pixel / 255 - mean) / deviation of each channel.

    A float tensor is taken as pixels / 255 already, so that gradients of an image can be asked for.
    """
    share = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    shape = (1, -1, 1, 1)
    means = torch.tensor(mean, device=share.device, dtype=share.dtype).view(shape)
    return (share - means) / torch.tensor(deviation, device=share.device, dtype=share.dtype).view(shape)
