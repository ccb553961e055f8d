"""How well prototypes match classes that the data have and training never saw."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from swamp_dist.prototypes.assignment import Assigned

Counts = NDArray[np.int64]
"""(K, C): items of each prototype and class."""


def class_counts(sides: tuple[Assigned, ...], prototypes: int, classes: int) -> Counts:
    """Items of each prototype and class, those without a class left out."""
    found = np.zeros((prototypes, classes), dtype=np.int64)
    for side in sides:
        known = side.label >= 0
        np.add.at(found, (side.prototype[known], side.label[known]), 1)
    return found


def purity(counts: Counts) -> float:
    """Share of the items whose class is the most frequent one of their prototype: sum_k max_c n_kc / N.

    It grows with the number of prototypes; 1 where each holds one item. nan without items.
    """
    items = counts.sum()
    return float(counts.max(axis=1).sum() / items) if items else float("nan")


def purities(counts: Counts) -> NDArray[np.float64]:
    """(K,) `purity` of each prototype alone; nan where it has no item of a class."""
    items = counts.sum(axis=1)
    found = np.full(len(counts), np.nan)
    np.divide(counts.max(axis=1), items, out=found, where=items > 0)
    return found


def normalized_mutual_information(counts: Counts) -> float:
    """Mutual information of prototype and class by the mean of both entropies, 0 to 1.

    The form of scikit-learn's `normalized_mutual_info_score` with its default, the arithmetic mean: 1 where
    there is one prototype and one class, 0 where one side has one value and the other several. nan without
    items.
    """
    items = counts.sum()
    if not items:
        return float("nan")
    joint = counts / items
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    entropies = _entropy(rows), _entropy(columns)
    if not any(entropies):
        return 1.0
    mutual = sum(entropies) - _entropy(joint.ravel())
    return float(min(1.0, max(0.0, 2 * mutual / sum(entropies))))


def _entropy(shares: NDArray[np.float64]) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum()) if len(positive) > 1 else 0.0
