"""Settings of the objective that fit each other in type but not in sense."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from swamp_dist.config import ContrastiveSettings, SwampSettings
from swamp_dist.errors import UserError
from swamp_dist.objective.placement import queue_capacity
from swamp_dist.records import BatchPlan

logger = logging.getLogger(__name__)
LEAST_BFLOAT16_EPSILON = 0.02
"""Where scores of bfloat16 operands move an exponent of the solve by 0.4 at worst
(`scores.score_product`)."""


def check_negatives(settings: ContrastiveSettings, plan: BatchPlan) -> None:
    """Refuse a contrastive term without any negative.

    Raises:
        UserError: the global batch holds one pair.
    """
    if plan.pairs < 2:
        raise UserError(
            "data.entries = 1 with data.pairs_per_entry = 1: a contrastive term needs at least 2 pairs in "
            "the "
            "global batch to have a negative; found 1. Raise data.entries, or set "
            "objective.contrastive.weight = 0"
        )


def check_positives(settings: ContrastiveSettings, plan: BatchPlan, labels: Sequence[int]) -> None:
    """Refuse several positives that the data do not tell apart, or that weights would count twice.

    Args:
        labels: class of each entry of the training split, -1 where it has none.

    Raises:
        UserError: some entry has no class, or in-entry weights are on.
    """
    if settings.weight == 0 or settings.positives == "partner":
        return
    if settings.form == "all" and settings.in_entry_share is not None and plan.pairs_per_entry > 1:
        raise UserError(
            f"objective.contrastive.positives = {settings.positives} with in_entry_share = "
            f"{settings.in_entry_share:g} and data.pairs_per_entry = {plan.pairs_per_entry}: pairs of an "
            "entry would be positives and weighted negatives at once.\nSet "
            "objective.contrastive.in_entry_share: null, or positives: partner"
        )
    if settings.positives == "class" and (missing := sum(label < 0 for label in labels)):
        raise UserError(
            f"objective.contrastive.positives = class: {missing:,} of {len(labels):,} entries of the "
            "training split have no class label; expected one of each.\nBuild shards from a source that "
            "gives labels, or set objective.contrastive.positives: entry or partner"
        )


def rows_to_start(swamp: SwampSettings, capacity: int) -> int:
    """Rows that must be valid, and with `unique_items` count, before the SwAMP term does."""
    asked = swamp.queue.start_when_filled
    return min(swamp.prototypes, capacity) if asked is None else asked


def check_items(swamp: SwampSettings, plan: BatchPlan, num_entries: int) -> None:
    """Refuse unique items of which a training split has too few; nothing to say where they may be captions.

    Raises:
        UserError: the term would never count over the `num_entries` entries of the split.
    """
    if swamp.weight == 0 or not swamp.queue.unique_items:
        return
    most = plan.pairs + num_entries - plan.entries  # all rows of the batch, and one of each entry outside it
    capacity = queue_capacity(swamp.queue.size, plan.pairs, swamp.queue.counts_batch)
    start = rows_to_start(swamp, capacity)
    if start > most:
        by_default = "" if swamp.queue.start_when_filled is not None else ", by default the prototypes,"
        raise UserError(
            f"objective.swamp.queue.start_when_filled = {start}{by_default} with unique_items: of a training "
            f"split of {num_entries} entries at most {most} rows can count at a time, so the SwAMP term "
            f"never would.\nLower it to {most} or less, lower objective.swamp.prototypes, or set "
            "unique_items: false"
        )


def check_kmeans(swamp: SwampSettings, num_entries: int) -> None:
    """Refuse k-means over fewer embeddings than prototypes.

    Raises:
        UserError: a part of a training split of `num_entries` entries is too small.
    """
    if swamp.weight == 0 or swamp.prototypes_start == "random":
        return
    rows = 2 * min(swamp.kmeans.items, num_entries)
    if rows < swamp.prototypes:
        raise UserError(
            f"objective.swamp.prototypes_start = kmeans: {swamp.prototypes} prototypes are more than the "
            f"{rows} embeddings of kmeans.items = {swamp.kmeans.items} of the {num_entries} entries of the "
            "training split.\nRaise objective.swamp.kmeans.items, lower objective.swamp.prototypes, or set "
            "prototypes_start: random"
        )


def check_swamp(swamp: SwampSettings, capacity: int) -> None:
    """Warn of settings of the SwAMP term that say little, refuse those that say nothing.

    Raises:
        UserError: the term would never count with a queue of `capacity` rows, or scores would be too coarse.
    """
    start = swamp.queue.start_when_filled
    if start is not None and start > capacity:
        raise UserError(
            f"objective.swamp.queue.start_when_filled = {start}: the queue and batch together hold "
            f"{capacity} rows, "
            "so the SwAMP term would never count. Lower it, or raise objective.swamp.queue.size"
        )
    if swamp.sinkhorn.score_precision == "bfloat16" and swamp.epsilon < LEAST_BFLOAT16_EPSILON:
        raise UserError(
            f"objective.swamp.sinkhorn.score_precision = bfloat16 with epsilon = temperature / eta = "
            f"{swamp.epsilon:g}: "
            f"rounding could move an exponent of the solve by {2**-7 / swamp.epsilon:.2g}; expected epsilon "
            "of at least "
            f"{LEAST_BFLOAT16_EPSILON}.\nSet score_precision: float32"
        )
    if capacity < swamp.prototypes:
        logger.warning(
            "%d rows are solved against %d prototypes: with fewer rows than prototypes equal shares say "
            "little; "
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
    if swamp.sinkhorn.warm_start and swamp.sinkhorn.start == "literal":
        logger.warning(
            "objective.swamp.sinkhorn.start = literal with warm_start = true: only the first solve of the "
            "stage starts cold, so it changes that one alone; set warm_start = false for the paper's solve"
        )
    fixed = swamp.sinkhorn.iterations
    if swamp.sinkhorn.warm_start and fixed is not None and fixed < 10 and swamp.epsilon < 0.01:
        logger.warning(
            "warm_start with %d fixed iterations at epsilon = %g ends further from balance than a cold "
            "start; "
            "raise objective.swamp.sinkhorn.iterations or set warm_start = false",
            fixed,
            swamp.epsilon,
        )
