"""Soft targets of the contrastive form `infonce`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from swamp_dist.bounds import Count, Scale
from swamp_dist.settings import Settings

LEAST_EPSILON = 1e-4
"""Of a plan, where the last bit of a similarity moves an exponent by 0.0024."""


class PairTargetSettings(Settings):
    """Which pairs of the batch `infonce` takes for matches of a pair besides its partner, and how much."""

    kind: Literal["partner", "within_modality", "balanced_plan", "pseudo_positives"] = "partner"
    """`partner`: each pair matches its partner alone. Else a target is (1 - weight) times the partner plus
    weight times a distribution P over the batch, without gradient. `within_modality`: P is a softmax of the
    similarities with other items of the anchor's own modality (SoftCLIP, Gao et al. 2024).
    `balanced_plan`: P is a transport plan between the pairs of the batch, partners left out, in which every
    item gets as much as any other (OTTER, Wu et al. 2022).
    `pseudo_positives`: P is uniform over the items that score at least as high as the partner (after PCME++,
    Chun 2024). None was measured to help here."""
    weight: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of P in a target; OTTER's 1 - alpha, 0.5 there."""
    temperature: Scale = 0.1
    """`within_modality`: cosines are divided by it."""
    epsilon: Scale = 0.05
    """`balanced_plan`: entropic regularisation, in units of similarities that lie within -3 .. 3."""
    iterations: Count = 5
    """`balanced_plan`: of the solve, a fixed number."""

    @property
    def is_soft(self) -> bool:
        """Whether others than the partner have a share."""
        return self.kind != "partner"

    @model_validator(mode="after")
    def _settings_count(self) -> PairTargetSettings:
        fields = type(self).model_fields
        used = {
            "within_modality": {"weight", "temperature"},
            "balanced_plan": {"weight", "epsilon", "iterations"},
            "pseudo_positives": {"weight"},
        }.get(self.kind, set())
        for name in [name for name in fields if name not in used | {"kind"}]:
            if (value := getattr(self, name)) != fields[name].default:
                raise ValueError(
                    f"{name} = {value:g} with kind = {self.kind}: it would not count; set another kind, or "
                    f"leave {name} at {fields[name].default:g}"
                )
        if self.epsilon < LEAST_EPSILON:
            raise ValueError(
                f"epsilon = {self.epsilon:g}: float32 holds a similarity of up to 3 to 2.4e-7, so exponents "
                f"of the plan would be off by {2.0**-22 / self.epsilon:.2g}; expected at least "
                f"{LEAST_EPSILON:g}"
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
