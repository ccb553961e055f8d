"""The scale and bias that turn cosines into logits, where the contrastive form has them.

InfoNCE compares scale * x_ij (CLIP, Radford et al. 2021, section 2.4), the sigmoid loss scale * x_ij + bias
(SigLIP, Zhai et al. 2023, algorithm 1). Both papers learn log(scale), so that a step multiplies the scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swamp_dist.config.contrastive import LARGEST_SCALE as LARGEST_SCALE

LARGEST_LOG_SCALE = 4.605169773101807
"""The largest float32 whose exponential is at most `LARGEST_SCALE`."""


@dataclass(frozen=True)
class LogitStart:
    """How the logits of a training begin."""

    scale: float
    """1 / temperature."""
    bias: float | None = None
    """None where the form has none."""
    learned: bool = False
    """Whether scale and bias are parameters, or stay what they are."""


class Logits(nn.Module):
    """Logit scale and bias: parameters where they are learned, else buffers, so in the weights either way.
    They have one axis of length 1, because DeepSpeed's broadcast refuses tensors without an axis.

    `Engine.step` keeps a learned log(scale) at its bound after every update, as CLIP's code does. Then it is
    never above the bound in a forward pass, where a limit would take its gradient away.
    """

    log_scale: Tensor
    bias: Tensor | None

    def __init__(self, start: LogitStart) -> None:
        super().__init__()
        self.learned = start.learned
        bias = None if start.bias is None else torch.tensor([start.bias], dtype=torch.float32)
        log_scale = math.log(start.scale)
        log_scale = min(log_scale, LARGEST_LOG_SCALE) if start.learned else log_scale
        self._hold("log_scale", torch.tensor([log_scale], dtype=torch.float32))
        self._hold("bias", bias)

    def _hold(self, name: str, value: Tensor | None) -> None:
        if self.learned:
            self.register_parameter(name, None if value is None else nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """Scale and bias or None, 0-d, float32 (float64 of a float64 model); a learned scale is at most
        `LARGEST_SCALE`."""
        log_scale = at_least_float32(self.log_scale)
        if self.learned:  # weights that a stage starts from may hold a larger one that was fixed
            log_scale = log_scale.clamp(max=LARGEST_LOG_SCALE)
        bias = self.bias
        # A copy: under ZeRO-3 a parameter itself is taken apart again after this module.
        return log_scale.exp()[0], None if bias is None else at_least_float32(bias).clone()[0]


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
