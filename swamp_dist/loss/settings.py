"""Settings of the objective for a loss outside a stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swamp_dist.config import ObjectiveSettings
from swamp_dist.errors import UserError
from swamp_dist.loading import from_values, override_texts


def read_settings(
    objective: ObjectiveSettings | Mapping[str, Any] | None, terms: Mapping[str, Any]
) -> ObjectiveSettings:
    """`objective` with the sections of `terms` laid over it; the queue is replicated.

    Raises:
        UserError: settings that are wrong, all of them in one message, or a queue that is to be sharded.
    """
    given = objective.model_dump(mode="json") if isinstance(objective, ObjectiveSettings) else objective or {}
    settings = from_values(given, ObjectiveSettings, "SwampLoss", override_texts(terms))
    queue = settings.swamp.queue
    if queue.layout == "sharded":
        raise UserError(
            "SwampLoss: swamp.queue.layout = sharded: its queue is whole on every rank, so that a state_dict "
            "needs no collective.\nFix: set layout: auto or replicated, or train with a job (swamp run)"
        )
    if settings.takes_triplets:
        raise UserError(
            "SwampLoss: triplet, semantic and domain are terms of a job, whose batches bring negatives.\n"
            "Fix: leave them out, or train with a job (swamp run)"
        )
    replicated = settings.swamp.model_copy(
        update={"queue": queue.model_copy(update={"layout": "replicated"})}
    )
    return settings.model_copy(update={"swamp": replicated})
