"""Random numbers of a simulated corpus: one stream a purpose, so that adding a part moves no other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeVar
from zlib import crc32

import numpy as np

T = TypeVar("T")
Draws: TypeAlias = np.random.Generator


def draws(seed: int, purpose: str, number: int = 0) -> Draws:
    """The stream of one purpose, and of one of its numbered things (a video, a clip)."""
    sequence = np.random.SeedSequence([seed, crc32(purpose.encode()), number])
    return np.random.Generator(np.random.Philox(sequence))


def pick(random: Draws, choices: Sequence[T], count: int) -> list[T]:
    """`count` different choices in random order; all of them where there are fewer."""
    order = random.permutation(len(choices))[:count]
    return [choices[int(i)] for i in order]
