"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from swamp_dist.config.training import ScheduleSettings


def learning_rate(
    step: int, *, peak: float, schedule: ScheduleSettings, steps_per_epoch: int, total_steps: int
) -> float:
    """Learning rate of update `step` (0-based): peak * ramp(step) * shape(step).

    ramp rises linearly from 1/warmup_steps at step 0 to 1 at step warmup_steps - 1 and stays there.
    shape is 1 (`constant`), decay^floor(epoch / decay_every) (`step`), or for `cosine`
    floor + (1 - floor) * (1 + cos(pi * p)) / 2, where p runs from 0 at the end of the ramp to 1 at
    `total_steps`, the first update that is not made.

    Raises:
        ValueError: a negative step, or a length that is not positive.
    """
    if step < 0 or steps_per_epoch < 1 or total_steps < 1:
        raise ValueError(f"{step = }, {steps_per_epoch = }, {total_steps = }")
    # Linear warm-up to the peak.
    warmup = schedule.warmup_steps
    ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
    # The shape after it.
    if schedule.kind == "constant":
        return peak * ramp
    if schedule.kind == "step":
        return peak * ramp * schedule.decay ** (step // steps_per_epoch // schedule.decay_every)
    done = min(1.0, max(0, step - warmup) / max(1, total_steps - warmup))
    return peak * ramp * (schedule.floor + (1 - schedule.floor) * (1 + math.cos(math.pi * done)) / 2)
