"""Settings of the objective that fit each other in type but not in sense."""

from __future__ import annotations

import logging

from swamp_dist.config import ContrastiveSettings, SwampSettings
from swamp_dist.records import BatchPlan, UserError

logger = logging.getLogger(__name__)
LEAST_BFLOAT16_EPSILON = 0.02
"""Where scores of bfloat16 operands move an exponent of the solve by 0.4 at worst (`masses.score_product`)."""


def check_negatives(settings: ContrastiveSettings, plan: BatchPlan) -> None:
    """Refuse a contrastive term without any negative.

    Raises:
        UserError: the global batch holds one pair.
    """
    if plan.pairs < 2:
        raise UserError(
            "data.entries = 1 with data.pairs_per_entry = 1: a contrastive term needs at least 2 pairs in the "
            "global batch to have a negative; found 1. Raise data.entries, or set objective.contrastive.weight = 0"
        )


def check_swamp(swamp: SwampSettings, capacity: int) -> None:
    """Warn of settings of the SwAMP term that say little, refuse those that say nothing.

    Raises:
        UserError: the term would never count with a queue of `capacity` rows, or scores would be too coarse.
    """
    start = swamp.queue.start_when_filled
    if start is not None and start > capacity:
        raise UserError(
            f"objective.swamp.queue.start_when_filled = {start}: the queue and batch together hold {capacity} rows, "
            "so the SwAMP term would never count. Lower it, or raise objective.swamp.queue.size"
        )
    if swamp.sinkhorn.score_precision == "bfloat16" and swamp.epsilon < LEAST_BFLOAT16_EPSILON:
        raise UserError(
            f"objective.swamp.sinkhorn.score_precision = bfloat16 with epsilon = temperature / eta = {swamp.epsilon:g}: "
            f"rounding could move an exponent of the solve by {2**-7 / swamp.epsilon:.2g}; expected epsilon of at least "
            f"{LEAST_BFLOAT16_EPSILON}.\nSet score_precision: float32"
        )
    if capacity < swamp.prototypes:
        logger.warning(
            "%d rows are solved against %d prototypes: with fewer rows than prototypes equal shares say little; "
            "raise objective.swamp.queue.size or lower objective.swamp.prototypes",
            capacity,
            swamp.prototypes,
        )
    if swamp.epsilon >= swamp.temperature:
        logger.warning(
            "epsilon = temperature / eta = %g is not below temperature = %g: targets softer than predictions "
            "flatten the scores; raise objective.swamp.eta above 1",
            swamp.epsilon,
            swamp.temperature,
        )
    fixed = swamp.sinkhorn.iterations
    if swamp.sinkhorn.warm_start and fixed is not None and fixed < 10 and swamp.epsilon < 0.01:
        logger.warning(
            "warm_start with %d fixed iterations at epsilon = %g ends further from balance than a cold start; "
            "raise objective.swamp.sinkhorn.iterations or set warm_start = false",
            fixed,
            swamp.epsilon,
        )
