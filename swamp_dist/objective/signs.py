"""What tells in a step that a training learns nothing, or that the SwAMP term rules it.

A sign is a figure beside its limit. A single bad step says little: `train/alarms.py` counts them. Where the
model tells nothing apart, all scores are equal and the contrastive term has the value of
`equal_scores_loss`; a run that has collapsed stays there, whatever its other figures are.

B pairs in the global batch; x_ij the cosine of a_i and b_j.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from swamp_dist.config import ContrastiveSettings, ObjectiveSettings
from swamp_dist.records import BatchPlan

POSITIVE, NEGATIVE, RATIO = "similarity/positive", "similarity/negative", "swamp/effective_ratio"
SCALE, BIAS = "contrastive/logit_scale", "contrastive/logit_bias"
POSITIVES, LOG_POSITIVES = "contrastive/positives", "contrastive/log_positives"
WATCHED = (POSITIVE, NEGATIVE, SCALE, BIAS, POSITIVES, LOG_POSITIVES, RATIO)
"""Figures that signs are made of, beside the losses; means over ranks."""
FLAT_SHARE = 0.9
"""Of the loss at equal scores: from there on the model tells nothing apart."""
LEAST_GAP = 0.1
"""Of the margin, between mean positive and mean negative score."""
RUNAWAY_DOMAIN = 10 * math.log(2)
"""Ten times the domain loss of a head that knows nothing: its logits are far out and on the wrong side."""


@dataclass(frozen=True)
class Sign:
    """One figure of a step beside its limit."""

    name: str
    is_bad: bool
    says: str
    """The figure and its limit in words."""
    fix: str
    """What to do, one sentence."""


def signs(
    settings: ObjectiveSettings,
    plan: BatchPlan,
    step: int,
    losses: Mapping[str, float],
    figures: Mapping[str, float],
) -> list[Sign]:
    """All signs of a step.

    Args:
        settings: of the objective.
        plan: of the batch.
        step: steps done before this one.
        losses: by tag, means over ranks.
        figures: those of `WATCHED` that the step has, means over ranks.
    """
    contrastive, found = settings.contrastive, list[Sign]()
    if contrastive.weight > 0:
        loss = losses["loss/contrastive"] / (plan.pairs if contrastive.reduction == "sum" else 1)
        equal = equal_scores_loss(contrastive, plan.pairs, step, figures)
        found.append(_flat_sign(contrastive, loss, equal))
        if not contrastive.has_logits:
            found.append(_gap_sign(contrastive, figures[POSITIVE], figures[NEGATIVE]))
    if "loss/triplet" in losses:
        found.append(_triplet_sign(settings.triplet.margin, losses["loss/triplet"]))
    if "loss/domain" in losses:
        found.append(_domain_sign(losses["loss/domain"]))
    if RATIO in figures:
        found.append(_ratio_sign(figures[RATIO]))
    return found


def equal_scores_loss(
    settings: ContrastiveSettings, pairs: int, step: int, figures: Mapping[str, float]
) -> float:
    """The mean contrastive loss where all scores are equal to their mean.

    A pair has P positives, itself among them. `hardest`: 2 m. `all`: 2 m (B - P + 1) / B, since other
    positives are left out; in-entry weights, whose mean is 1, change nothing. `infonce`: ln B, with `mil_nce`
    ln B - mean ln P. `sigmoid`: P softplus(-z) + (B - P) softplus(z), z = scale * mean score + bias.

    Args:
        pairs: B.
        step, figures: as for `signs`.
    """
    positives = figures.get(POSITIVES, 1.0)
    if settings.form == "infonce":
        return math.log(pairs) - figures.get(LOG_POSITIVES, 0.0)
    if settings.form == "sigmoid":
        score = (positives * figures[POSITIVE] + (pairs - positives) * figures[NEGATIVE]) / pairs
        logit = figures[SCALE] * score + figures[BIAS]
        return positives * _softplus(-logit) + (pairs - positives) * _softplus(logit)
    if settings.takes_hardest(step):
        return 2 * settings.margin
    return 2 * settings.margin * (pairs - positives + 1) / pairs


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _flat_sign(settings: ContrastiveSettings, loss: float, equal: float) -> Sign:
    return Sign(
        "contrastive loss",
        loss >= FLAT_SHARE * equal,
        f"the contrastive loss is {loss:.4g}, its value where all scores are equal is {equal:.4g}: the model "
        "tells pairs apart hardly or not at all",
        _flat_fix(settings),
    )


def _gap_sign(settings: ContrastiveSettings, positive: float, negative: float) -> Sign:
    gap = positive - negative
    return Sign(
        "score gap",
        gap < LEAST_GAP * settings.margin,
        f"matching pairs score {positive:.4f}, others {negative:.4f}: they lie {gap:.2g} apart, less than a "
        f"tenth of the margin of {settings.margin:g}",
        _flat_fix(settings),
    )


def _triplet_sign(margin: float, loss: float) -> Sign:
    """Where all distances are equal, the hinge is its margin."""
    return Sign(
        "triplet loss",
        loss >= FLAT_SHARE * margin,
        f"the triplet loss is {loss:.4g}, its value where all distances are equal is {margin:.4g}: negatives "
        "are hardly or not at all farther than partners",
        "Lower train.optimizer.lr, objective.domain.weight or objective.semantic.reversal, or start "
        "from weights of a network that was trained on pictures",
    )


def _domain_sign(loss: float) -> Sign:
    return Sign(
        "domain loss",
        loss > RUNAWAY_DOMAIN,
        f"the domain loss is {loss:.4g}, that of a head that knows nothing {math.log(2):.4g}: the reversed "
        "gradient drives the embeddings apart without a bound",
        "Lower objective.domain.weight or train.optimizer.lr, or set train.optimizer.clip_norm",
    )


def _flat_fix(settings: ContrastiveSettings) -> str:
    if settings.form == "hardest" and settings.all_negatives_steps == 0:
        return (
            "Start with objective.contrastive.all_negatives_steps (a few epochs of steps), "
            "or lower train.optimizer.lr"
        )
    if settings.has_logits:
        return (
            "Lower train.optimizer.lr, objective.contrastive.temperature or objective.swamp.weight, or look "
            "at the data (swamp shards verify)"
        )
    return "Lower train.optimizer.lr or objective.swamp.weight, or look at the data (swamp shards verify)"


def _ratio_sign(ratio: float) -> Sign:
    return Sign(
        "effective ratio",
        not math.isnan(ratio) and ratio > 1,
        f"the SwAMP term pulls {ratio:.3g} times as strongly at the embeddings as the contrastive term",
        "Lower objective.swamp.weight, or set objective.swamp.weight_as=gradient_ratio",
    )
