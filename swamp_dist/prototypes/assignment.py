"""Which prototype an item belongs to (paper, eq. 7), and which pairs agree on one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swamp_dist.evaluate.embedding import Embedded

_ROWS = 8192
"""Items whose scores are in memory at a time."""


@dataclass(frozen=True)
class Assigned:
    """The n items of one modality of a split, in the order of the set."""

    prototype: NDArray[np.int64]
    """(n,) the prototype of the highest score; of equal ones the lowest number."""
    score: NDArray[np.float32]
    """(n,) that score: a cosine where prototypes have unit length."""
    probability: NDArray[np.float32]
    """(n,) p(y | x) of that prototype."""
    entry: NDArray[np.int64]
    """(n,) position in the split of the entry that an item belongs to."""
    label: NDArray[np.int64]
    """(n,) class of that entry, -1 where it has none."""

    def __len__(self) -> int:
        return len(self.prototype)


def assign(items: Embedded, prototypes: Tensor, temperature: float) -> Assigned:
    """argmax_y of p(y | x) = softmax(P x / tau), the classifier that training fits (paper, eq. 7).

    Args:
        items: n items, (n, D) rows of unit length.
        prototypes: P, (K, D).
        temperature: tau.
    """
    best, score, probability = [], [], []
    for start in range(0, len(items.rows), _ROWS):
        scores = items.rows[start : start + _ROWS].cpu() @ prototypes.T
        top = scores.argmax(dim=1, keepdim=True)
        best.append(top[:, 0])
        score.append(scores.gather(1, top)[:, 0])
        probability.append(torch.softmax(scores / temperature, dim=1).gather(1, top)[:, 0])
    return Assigned(
        torch.cat(best).numpy(), torch.cat(score).numpy(), torch.cat(probability).numpy(),
        items.entry.cpu().numpy(), items.label.cpu().numpy(),
    )  # fmt: skip


def sizes(items: Assigned, count: int) -> NDArray[np.int64]:
    """(K,) items of each of `count` prototypes."""
    return np.bincount(items.prototype, minlength=count)


@dataclass(frozen=True)
class Agreement:
    """How often both sides of a pair have the same prototype; shares from 0 to 1."""

    share: float
    """Over all pairs."""
    chance: float
    """What it would be if the a and the b of a pair had nothing to do with each other."""
    by_prototype: NDArray[np.float64]
    """(K,) pairs with both sides in the prototype, divided by the mean of those with a and those with b in
    it (Dice); nan where it has no pair. Weighted with that mean, they average to `share`."""


def agreement(a: Assigned, b: Assigned, count: int) -> Agreement:
    """Of all pairs, how many have an a and a b of the same prototype.

    A pair is an a and a b of the same entry. Where an entry has several items, each of its combinations
    counts as one divided by their number, so that all entries count alike.

    Raises:
        ValueError: no entry has items of both sides.
    """
    both = np.intersect1d(a.entry, b.entry)
    if not len(both):
        raise ValueError("no entry has items of both modalities")
    (key_a, share_a), (key_b, share_b) = (_shares(side, both, count) for side in (a, b))
    _, in_a, in_b = np.intersect1d(key_a, key_b, return_indices=True)
    same = np.bincount(key_a[in_a] % count, share_a[in_a] * share_b[in_b], count)
    mass_a, mass_b = (np.bincount(k % count, s, count) for k, s in ((key_a, share_a), (key_b, share_b)))
    half = (mass_a + mass_b) / 2
    by_prototype = np.divide(same, half, out=np.full(count, np.nan), where=half > 0)
    entries = len(both)
    return Agreement(
        float(same.sum() / entries), float((mass_a / entries) @ (mass_b / entries)), by_prototype
    )


def _shares(
    side: Assigned, entries: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """entry * K + prototype of every combination that occurs, ascending, and the share of the entry's items
    that it holds."""
    kept = np.isin(side.entry, entries)
    key, number = np.unique(side.entry[kept] * count + side.prototype[kept], return_counts=True)
    of_entry = np.bincount(side.entry[kept])
    return key, number / of_entry[key // count]
