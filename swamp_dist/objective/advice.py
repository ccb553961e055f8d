"""Settings of the objective that have gone wrong in measured runs: said before a rank starts, never refused.

The paper's own settings are among them. Each warning has its numbers and the fix. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from swamp_dist.config import (
    ContrastiveSettings,
    ObjectiveSettings,
    QueueSettings,
    SwampSettings,
    WarningName,
)
from swamp_dist.objective.placement import queue_capacity

_LARGEST_FLOOR = 1.0
_WARM_UP_EPOCHS = 10


def objective_warnings(
    settings: ObjectiveSettings, batch_pairs: int, items: int | None, epoch_steps: int | None
) -> list[str]:
    """The texts of `named_warnings`."""
    return [text for _, text in named_warnings(settings, batch_pairs, items, epoch_steps)]


def named_warnings(
    settings: ObjectiveSettings, batch_pairs: int, items: int | None, epoch_steps: int | None
) -> list[tuple[WarningName, str]]:
    """What may well go wrong, most serious first, each with the name that `known_warnings` of a job uses.

    Args:
        settings: of the objective.
        batch_pairs: pairs B of the global batch.
        items: of the training split, the unit that is drawn; None where it is not known.
        epoch_steps: steps of an epoch; None where they are not known.
    """
    found: list[tuple[WarningName, str]] = []
    if settings.contrastive.weight > 0:
        found += [("plateau", text) for text in _plateau(settings.contrastive, epoch_steps)]
    if settings.swamp.weight > 0:
        stale = _stale_queue(settings.swamp.queue, batch_pairs, items)
        found += [("stale_queue", text) for text in stale]
        found += [("high_floor", text) for text in _high_floor(settings.swamp)]
    return found


def loss_floor(swamp: SwampSettings) -> float | None:
    """What L_s cannot fall below: 2 ln(1 + (K - 1) e^(-1 / tau)); None where prototypes have any length.

    A prediction is sharpest where a row's cosine is 1 with one prototype and 0 with the others; L_s adds up
    both modalities.
    """
    if not swamp.normalize_prototypes:
        return None
    return 2 * math.log1p((swamp.prototypes - 1) * math.exp(-1 / swamp.temperature))


def _plateau(contrastive: ContrastiveSettings, epoch_steps: int | None) -> Iterator[str]:
    if contrastive.form != "hardest" or contrastive.all_negatives_steps > 0:
        return
    steps = _WARM_UP_EPOCHS * (epoch_steps or 0)
    told = f"={steps} ({_WARM_UP_EPOCHS} epochs)" if steps else f" = the steps of {_WARM_UP_EPOCHS} epochs"
    yield (
        "objective.contrastive.form = hardest with all_negatives_steps = 0: the loss can rest on its "
        f"plateau at twice the margin, {2 * contrastive.margin:g}, where all scores are equal (two of five "
        "runs of the synthetic experiment never left it).\n"
        f"Fix: begin with all negatives: objective.contrastive.all_negatives_steps{told}."
    )


def _stale_queue(queue: QueueSettings, batch_pairs: int, items: int | None) -> Iterator[str]:
    capacity = queue_capacity(queue.size, batch_pairs, queue.counts_batch)
    if items is None or 2 * capacity <= items or queue.unique_items:
        return
    size = max(items // 2 - (0 if queue.counts_batch else batch_pairs), 0)
    smaller = f"size={size}" if 2 * batch_pairs <= items else "size=0 and a smaller batch"
    yield (
        f"objective.swamp.queue holds {capacity} rows with the batch, more than half of the {items} items of "
        f"the training split: an item stands in it up to {math.ceil(capacity / items) + 1} times, as it was "
        f"embedded some steps ago, and runs have collapsed by that.\n"
        f"Fix: objective.swamp.queue.unique_items=true, or objective.swamp.queue.{smaller}."
    )


def _high_floor(swamp: SwampSettings) -> Iterator[str]:
    floor = loss_floor(swamp)
    if floor is None or floor <= _LARGEST_FLOOR:
        return
    allowed = 1 / math.log((swamp.prototypes - 1) / math.expm1(_LARGEST_FLOOR / 2))
    yield (
        f"objective.swamp: with prototypes = {swamp.prototypes} and temperature = {swamp.temperature:g} the "
        f"SwAMP loss cannot fall below 2 ln(1 + (K - 1) e^(-1 / temperature)) = {floor:.3g}: it goes on "
        "pulling at pairs that are learned, where the contrastive term has stopped.\n"
        f"Fix: objective.swamp.temperature={math.floor(100 * allowed) / 100:g} or below (and eta in "
        "proportion, for the same epsilon), or a smaller objective.swamp.weight."
    )
