"""What keeps the terms of Doodle2Search from being computed, told before a rank starts."""

from __future__ import annotations

from collections.abc import Iterator

from swamp_dist.config import StageSettings
from swamp_dist.data.class_vectors import class_vectors
from swamp_dist.data.manifest import Manifest
from swamp_dist.errors import UserError


def triplet_problems(settings: StageSettings, manifest: Manifest) -> Iterator[str]:
    """Terms without negatives, heads without terms and the reverse, classes without vectors; nothing for a
    stage that does not train."""
    if settings.train is None:
        return
    objective, heads = settings.objective, settings.model.doodle2search
    asked = [
        f"objective.{name}.weight = {weight:g}"
        for name, weight in (
            ("triplet", objective.triplet.weight),
            ("semantic", objective.semantic.weight),
            ("domain", objective.domain.weight),
        )
        if weight > 0
    ]
    named = ", ".join(asked)
    if heads is not None and not objective.asks_heads:
        yield (
            "model.doodle2search is given, and neither objective.semantic nor objective.domain asks its "
            "heads.\n"
            "Fix: model.doodle2search=null, or a weight above 0 for one of both terms"
        )
    if heads is None and objective.asks_heads:
        yield f"{named}: the model has no heads for it.\nFix: model.doodle2search={{}}, or weight 0"
    if not asked:
        return
    if settings.data.clips is not None or settings.data.blend is not None:
        other = "clips" if settings.data.clips is not None else "blend"
        yield f"{named}: triplets are drawn by class, which data.{other} does not do.\nFix: data.{other}=null"
    if settings.model.sets is not None:
        yield (
            f"{named}: triplets are of encoders that give one vector per item, and model.sets = "
            f"{settings.model.sets.kind}.\nFix: model.sets=null with such encoders, or weight 0"
        )
    partners = settings.data.partners
    if partners is None or partners.negatives == "none":
        yield (
            f"{named}: a triplet needs a negative, and data.partners"
            f"{' = null' if partners is None else '.negatives = none'}.\n"
            "Fix: data.partners={split: PHOTOS, negatives: near} (or uniform), or weight 0"
        )
    if objective.semantic.weight > 0:
        yield from _vector_problems(manifest)


def _vector_problems(manifest: Manifest) -> Iterator[str]:
    try:
        missing = class_vectors(manifest) is None
    except UserError as error:
        yield f"objective.semantic: {error}"
        return
    if missing:
        yield (
            f"objective.semantic takes vectors of the classes' names, and {manifest.folder} has none.\n"
            "Fix: objective.semantic.weight=0, or a set that was built with them"
        )
