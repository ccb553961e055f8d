"""Soft targets of the contrastive form `infonce`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from swamp_dist.bounds import Scale
from swamp_dist.settings import Settings


class PairTargetSettings(Settings):
    """Which pairs of the batch `infonce` takes for matches of a pair besides its partner, and how much."""

    kind: Literal["partner", "within_modality", "pseudo_positives"] = "partner"
    """`partner`: each pair matches its partner alone. Else a target is (1 - weight) times the partner plus
    weight times a distribution P over the batch, without gradient. `within_modality`: P is a softmax of the
    similarities with other items of the anchor's own modality (SoftCLIP, Gao et al. 2024).
    `pseudo_positives`: P is uniform over the items that score at least as high as the partner (after PCME++,
    Chun 2024). None was measured to help here."""
    weight: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of P in a target."""
    temperature: Scale = 0.1
    """`within_modality`: cosines are divided by it."""

    @property
    def is_soft(self) -> bool:
        """Whether others than the partner have a share."""
        return self.kind != "partner"

    @model_validator(mode="after")
    def _settings_count(self) -> PairTargetSettings:
        fields = type(self).model_fields
        idle = {"partner": ("weight", "temperature"), "pseudo_positives": ("temperature",)}.get(self.kind, ())
        for name in idle:
            if (value := getattr(self, name)) != fields[name].default:
                raise ValueError(
                    f"{name} = {value:g} with kind = {self.kind}: it would not count; set another kind, or "
                    f"leave {name} at {fields[name].default:g}"
                )
        return self


def target_problem(targets: PairTargetSettings, form: str, positives: str, columns: str) -> str | None:
    """What soft targets do not go with, and the fix; None where they count."""
    if not targets.is_soft:
        return None
    what = f"targets.kind = {targets.kind} with"
    if form != "infonce":
        return f"{what} form = {form}: it has no softmax; set form: infonce, or targets.kind: partner"
    if positives != "partner":
        return (
            f"{what} positives = {positives}: each says which other pairs match; set positives: partner, or "
            "targets.kind: partner"
        )
    if columns == "ring":
        return (
            f"{what} columns = ring: targets need both sides of the batch on every rank; set columns: auto, "
            "or targets.kind: partner"
        )
    return None
