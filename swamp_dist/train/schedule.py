"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate(
    step: int,
    steps_per_epoch: int,
    total_steps: int,
    lr: float,
    kind: Literal["constant", "step", "cosine"],
    warmup_steps: int,
    decay: float,
    decay_every: int,
    floor: float,
) -> float:
    """Learning rate of update `step` (0-based): lr * ramp(step) * shape(step).

    ramp rises linearly from 1/warmup_steps at step 0 to 1 at step warmup_steps - 1 and stays there.
    shape is 1 (`constant`), decay^floor(epoch / decay_every) (`step`), or for `cosine`
    floor + (1 - floor) * (1 + cos(pi * p)) / 2, where p runs from 0 at the end of the ramp to 1 at
    `total_steps`, the first update that is not made.

    Raises:
        ValueError: a negative step, or a length that is not positive.
    """
    if step < 0 or steps_per_epoch < 1 or total_steps < 1 or decay_every < 1:
        raise ValueError(f"{step = }, {steps_per_epoch = }, {total_steps = }, {decay_every = }")
    ramp = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if kind == "constant":
        return lr * ramp
    if kind == "step":
        return lr * ramp * decay ** (step // steps_per_epoch // decay_every)
    progress = max(0, step - warmup_steps) / max(1, total_steps - warmup_steps)
    return lr * ramp * (floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, progress))) / 2)
