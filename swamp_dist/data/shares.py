"""Which shard set of a blend gives the entry of each slot: a pure function of the shares.

Slot n is the n-th entry that a training draws, in the order of its batches. Sets are laid over slots by the
chairman assignment of Tijdeman (1980, Discrete Mathematics 32, 323-330): after any number n of slots, each of
K sets with share s has had s * n of them to within 1 - 1 / (2K - 2), which is less than 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import lcm

import numpy as np


class Slots:
    """The sets of all slots. They repeat after M slots, M the shares' common denominator, so that what was
    drawn before any slot is arithmetic."""

    def __init__(self, shares: Sequence[Fraction]) -> None:
        """`shares`: above 0, of sum 1."""
        self._period = np.array(_period(tuple(shares)), dtype=np.int64)
        drawn = self._period[:, None] == np.arange(len(shares))
        self._drawn = np.concatenate([np.zeros((1, len(shares)), dtype=np.int64), drawn.cumsum(axis=0)])

    def sets(self, first: int, last: int) -> np.ndarray:
        """(last - first,) int64: the set of each of the slots first .. last - 1."""
        return self._period[np.arange(first, last) % len(self._period)]

    def drawn(self, slots: int | np.ndarray) -> np.ndarray:
        """(..., K) int64: how many of the first `slots` slots are each set's."""
        periods, rest = np.divmod(np.asarray(slots, dtype=np.int64), len(self._period))
        count: np.ndarray = periods[..., None] * self._drawn[-1] + self._drawn[rest]
        return count

    def most(self, entries: int) -> list[int]:
        """The most slots that each set has in a batch of `entries`, over all batches."""
        starts = np.arange(len(self._period)) * entries
        most: list[int] = (self.drawn(starts + entries) - self.drawn(starts)).max(axis=0).tolist()
        return most


@lru_cache(maxsize=8)
def _period(shares: tuple[Fraction, ...]) -> tuple[int, ...]:
    """Sets of the first M slots. Of the sets whose share of the slots so far exceeds what they had by
    1 / (2K - 2) or more, the next slot goes to the one that must have it soonest to stay within the bound."""
    length, spread = lcm(*(share.denominator for share in shares)), max(1, 2 * len(shares) - 2)
    wanted = [int(share * length) for share in shares]
    scale = lcm(*wanted)  # deadlines are divided by the shares; whole numbers compare exactly
    had, sets = [0] * len(shares), []
    for slot in range(1, length + 1):
        behind = [spread * (wanted[k] * slot - length * had[k]) for k in range(len(shares))]
        waiting = [k for k in range(len(shares)) if behind[k] >= length]
        chosen = min(waiting, key=lambda k: ((spread - 1) * length - behind[k]) * (scale // wanted[k]))
        had[chosen] += 1
        sets.append(chosen)
    return tuple(sets)
