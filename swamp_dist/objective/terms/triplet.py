"""Triplets of Doodle2Search (Dey et al. 2019, eq. 1): with an anchor a, its partner b and a negative n,

    L = mean_i max(0, margin + |a_i - b_i| - |a_i - n_i|)

over rows of free length where `model.length` is free, of unit length else. The published code adds 1e-6 to
every element of a difference, as torch's `TripletMarginLoss` does; this does not.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from swamp_dist.config import TripletSettings
from swamp_dist.objective.term import Term, TermInputs

TAGS: Mapping[str, str] = {
    "loss/triplet": "Triplet hinge on Euclidean distances before its weight, mean over ranks.",
    "distance/positive": "Mean Euclidean distance of an anchor and its partner.",
    "distance/negative": "Mean Euclidean distance of an anchor and its negative.",
    "triplet/satisfied": "Share of triplets whose negative is farther than the partner by the margin.",
}


def term(settings: TripletSettings, inputs: TermInputs) -> Term:
    """The hinge of my triplets; nothing is computed where its weight is 0.

    Raises:
        ValueError: the model gave no negatives.
    """
    if settings.weight == 0:
        return Term()
    mine = inputs.mine
    if mine.negatives is None:
        raise ValueError("the triplet term needs negatives: data.partners.negatives")
    a = mine.a if mine.free_a is None else mine.free_a
    b = mine.b if mine.free_b is None else mine.free_b
    near, far = distances(a, b), distances(a, mine.negatives)
    hinges = triplet_hinges(near, far, settings.margin)
    figures = {
        "distance/positive": near.detach().mean(),
        "distance/negative": far.detach().mean(),
        "triplet/satisfied": (hinges.detach() == 0).to(hinges.dtype).mean(),
    }
    return Term(settings.weight, hinges.mean(), figures)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_i| of rows (b, D) -> (b,); equal rows have a gradient of 0."""
    found: Tensor = torch.linalg.vector_norm(x - y, dim=1)
    return found


def triplet_hinges(near: Tensor, far: Tensor, margin: float) -> Tensor:
    """max(0, margin + near - far), (b,)."""
    return (margin + near - far).clamp(min=0)
