"""Which entry becomes the partner of an anchor, and which its negative: pure functions.

Everything follows from (seed, epoch, key of the anchor, number of its pair), so neither world size, loader
processes nor the step that a training goes on from can change a draw. Words are taken modulo the number of
entries: of n < 2^32 entries none is likelier than another by more than one part in 2^32.

Letters: n draws, C classes, E values of the vector of a class's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from swamp_dist.data.lanes import random_words


class DrawWords(NamedTuple):
    """Random words of n pairs, (n,) uint64 each. What is not drawn leaves the other draws as they are."""

    partner: np.ndarray
    partner_item: np.ndarray
    negative_class: np.ndarray
    negative: np.ndarray
    negative_item: np.ndarray


def draw_words(seed: int, epoch: int, keys: Sequence[str], pairs: int) -> DrawWords:
    """Words of `pairs` pairs of each of the anchors with these keys, anchor after anchor."""
    width = len(DrawWords._fields)
    words = [random_words(pairs * width, "partners", seed, epoch, key) for key in keys]
    return DrawWords(*np.concatenate(words).reshape(-1, width).T)


class ClassEntries:
    """The entries of a split by class."""

    def __init__(self, labels: np.ndarray) -> None:
        """`labels`: (N,) int64 of at least 0, the class of every entry."""
        self._order = np.argsort(labels, kind="stable")
        self._first = np.concatenate([[0], np.bincount(labels).cumsum()])

    @property
    def counts(self) -> np.ndarray:
        """(C,) int64: entries of every class, up to the largest that has one."""
        return np.diff(self._first)

    @property
    def classes(self) -> np.ndarray:
        """int64: the classes that have an entry, in ascending order."""
        return np.flatnonzero(self.counts)

    def draw(self, classes: np.ndarray, words: np.ndarray) -> np.ndarray:
        """(n,) int64: a uniformly drawn entry of each of these classes, which have one."""
        first = self._first[classes]
        drawn: np.ndarray = self._order[first + remainder(words, self.counts[classes])]
        return drawn


def remainder(words: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(n,) int64: numbers 0 .. counts - 1 from random words."""
    found: np.ndarray = (words % counts.astype(np.uint64)).astype(np.int64)
    return found


def other_classes(present: np.ndarray, classes: np.ndarray, words: np.ndarray) -> np.ndarray:
    """(n,) int64: for each class one of the others, uniformly.

    Args:
        present: the classes to draw from, ascending, at least two.
        classes: (n,) int64, each among them.
        words: (n,) uint64.
    """
    place = remainder(words, np.full(len(words), len(present) - 1))
    place += place >= np.searchsorted(present, classes)
    drawn: np.ndarray = present[place]
    return drawn


class NearClasses:
    """Draws a class j other than i with a probability in proportion to exp(-|w_i - w_j|^2 / temperature), w
    the vectors of the classes' names: the rule of the published code of Doodle2Search (Dey et al. 2019).

    Probabilities come from a log-softmax in float64: vectors that are not of unit length have distances whose
    exponentials are 0 in float32 for all classes, and 0 / 0 is no probability.
    """

    def __init__(self, vectors: np.ndarray, present: np.ndarray, temperature: float) -> None:
        """`vectors`: (C, E), row i that of class i. `present`: classes to draw from, at least two."""
        self._vectors = vectors.astype(np.float64)
        self._present = present
        self._temperature = temperature
        self._cumulated: dict[int, np.ndarray] = {}

    def probabilities(self, label: int) -> np.ndarray:
        """(present,) float64 of sum 1: of class `label` itself 0."""
        distances = ((self._vectors[self._present] - self._vectors[label]) ** 2).sum(axis=1)
        logits = np.where(self._present == label, -np.inf, -distances / self._temperature)
        logits -= logits.max()
        shares: np.ndarray = np.exp(logits - np.log(np.exp(logits).sum()))
        return shares

    def draw(self, classes: np.ndarray, words: np.ndarray) -> np.ndarray:
        """(n,) int64: another class for each of `classes`."""
        uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53  # in [0, 1)
        pairs = zip(classes.tolist(), uniform, strict=True)
        places = [int(np.searchsorted(self._sums(label), u, side="right")) for label, u in pairs]
        drawn: np.ndarray = self._present[places]
        return drawn

    def _sums(self, label: int) -> np.ndarray:
        """Running sums of the probabilities; the last is exactly 1, which no draw reaches."""
        if label not in self._cumulated:
            sums = self.probabilities(label).cumsum()
            self._cumulated[label] = sums / sums[-1]
        return self._cumulated[label]
