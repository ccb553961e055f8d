"""Pairs that are drawn by class: an entry of one split with an entry of another."""

from __future__ import annotations

from typing import Literal

from swamp_dist.bounds import Scale
from swamp_dist.settings import Settings


class PartnerNames(Settings):
    """Display names of both modalities, where both are the same field of two splits."""

    a: str
    """Name of modality A, for example sketch."""
    b: str
    """Name of modality B, for example photo."""


class PartnerSettings(Settings):
    """Every pair is an entry of `data.train_split` (its field a, the anchor) and an entry of another split
    (its field b), drawn from the same class anew in every epoch."""

    split: str
    """Split that partners and negatives are drawn from; holds every class of the training split."""
    negatives: Literal["none", "uniform", "near"] = "none"
    """An entry of another class beside each pair, for losses that take triplets. `uniform`: the class is
    drawn uniformly; `near`: with a probability that falls with the squared distance of the vectors of the
    classes' names, as in Doodle2Search (Dey et al. 2019). `none` draws no negatives."""
    negative_temperature: Scale = 0.1
    """Of `near`: what the squared distance is divided by; smaller takes the nearest class more often."""
    names: PartnerNames | None = None
    """Names of both modalities in tables; null: those of their fields."""
