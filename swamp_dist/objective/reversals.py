"""How strongly the gradients of Doodle2Search's heads are reversed, from step to step."""

from __future__ import annotations

from swamp_dist.config import ObjectiveSettings
from swamp_dist.records import Reversals

_BEGINS, _ENDS = 5, 25
"""Epochs between which the domain loss begins to push back (Dey et al. 2019, their code)."""


def ramp(position: int) -> float:
    """0 before epoch 5, then (e - 5) / 20, and 1 from epoch 25 on; epochs are counted from 0."""
    return min(max((position - _BEGINS) / (_ENDS - _BEGINS), 0.0), 1.0)


def reversals(settings: ObjectiveSettings, step: int, steps_per_epoch: int) -> Reversals | None:
    """Strengths in the step after `step` others; None where no term asks a head."""
    if not settings.asks_heads:
        return None
    epoch, batch = divmod(step, steps_per_epoch)
    position = epoch if settings.domain.ramp == "epoch" else batch
    return Reversals(settings.semantic.reversal, ramp(position))
