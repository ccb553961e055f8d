"""Terms of the objective: what all have, and those of Doodle2Search (Dey et al., CVPR 2019)."""

from __future__ import annotations

from typing import Literal

from swamp_dist.bounds import Factor
from swamp_dist.settings import Settings


class TermSettings(Settings):
    """What every term of the total has."""

    weight: Factor = 0.0
    """Factor of the term in the total; 0 skips its work."""


class OwnRowsSettings(TermSettings):
    """A term of every pair by itself, for which no pairs of other ranks are gathered."""


class TripletSettings(OwnRowsSettings):
    """Triplets of Doodle2Search (Dey et al. 2019): a pair's b nearer to its a than a negative, by a margin,
    in Euclidean distance. Needs `data.partners.negatives`."""

    margin: Factor = 1.0
    """Of the distances."""


class SemanticSettings(OwnRowsSettings):
    """(1 - cosine) / 2 to the vector of the anchor's class name, of what `model.doodle2search` makes of
    sketch, photo and negative, added up. Needs `data.partners.negatives` and a set with class vectors."""

    reversal: Factor = 0.5
    """The negatives' gradient is multiplied by minus this (`grl_lambda` of the published code)."""


class DomainSettings(OwnRowsSettings):
    """Cross-entropy of telling sketches from photos, mean of sketch, photo and negative, whose gradient is
    reversed behind the head of `model.doodle2search`. Needs `data.partners.negatives`."""

    ramp: Literal["epoch", "batch"] = "epoch"
    """The strength of the reversal is 0 before number 5, then (number - 5) / 20, and 1 from 25 on. `epoch`:
    numbers are epochs, as the paper means it; `batch`: steps within an epoch, so that the ramp starts anew in
    each, as the published code does, which made the paper's figures."""
