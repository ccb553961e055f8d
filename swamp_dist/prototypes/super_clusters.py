"""Prototypes that lie close together: the super-clusters of the paper's section 5.5."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SuperCluster:
    """Prototypes that belong together."""

    members: tuple[int, ...]
    """Numbers of prototypes, ascending."""
    mean_cosine: float | None
    """Mean over all pairs of members; None of one alone."""


def default_groups(prototypes: int) -> int:
    """How many super-clusters so many prototypes are cut into: the root, rounded."""
    return max(1, round(math.sqrt(prototypes)))


def super_clusters(vectors: NDArray[np.float32], numbers: Sequence[int], groups: int) -> list[SuperCluster]:
    """Agglomerative clustering by cosine with average linkage, cut where at most `groups` are left.

    The paper finds its super-clusters by eye and gives no rule. Average linkage joins the two groups whose
    members have the highest mean cosine; scipy's `linkage` and `fcluster` do it.

    Args:
        vectors: (K, D) prototypes of any length.
        numbers: those that take part, at least one: prototypes without items only blur the groups.

    Returns:
        The largest first, of equal ones that with the lowest number.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    chosen = np.asarray(sorted(numbers), dtype=np.int64)
    rows = vectors[chosen].astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if len(chosen) == 1:
        return [SuperCluster((int(chosen[0]),), None)]
    place = fcluster(linkage(rows, method="average", metric="cosine"), groups, criterion="maxclust")
    found = [
        SuperCluster(tuple(chosen[place == number].tolist()), _mean_cosine(rows[place == number]))
        for number in np.unique(place)
    ]
    return sorted(found, key=lambda group: (-len(group.members), group.members))


def _mean_cosine(rows: NDArray[np.float64]) -> float | None:
    """|sum of n unit rows|^2 = n + the cosines of all ordered pairs."""
    count = len(rows)
    if count < 2:
        return None
    return float((np.square(rows.sum(axis=0)).sum() - count) / (count * (count - 1)))
