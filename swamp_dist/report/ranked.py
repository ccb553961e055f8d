"""Which queries of an evaluation a report shows: where the right item stands, and what comes first.

Shape letters: n queries, m gallery items, t queries of a tile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from swamp_dist.evaluate.scores import nan_last

TOP = 5
"""Items that are shown of each query."""
_ROWS = 256


@dataclass(frozen=True)
class Hit:
    """One of the items that come first."""

    item: int
    score: float
    is_right: bool


@dataclass(frozen=True)
class Ranked:
    """A query with its answer."""

    query: int
    rank: int
    """Of the first right item, counted from 1; items of the same score that are not right stand before it."""
    margin: float
    """Its score less that of the best item that is not right."""
    top: tuple[Hit, ...]
    """The highest scores first; of equal ones those that are not right."""


@dataclass(frozen=True)
class Chosen:
    """The queries that are shown of one direction."""

    best: tuple[Ranked, ...]
    """Rank 1 with the largest margins."""
    worst: tuple[Ranked, ...]
    """The largest ranks; of equal ones the smallest margins."""
    drawn: tuple[Ranked, ...]
    """In an order that follows from the keys alone."""


def choose(scores: Tensor, groups: Tensor, gallery_groups: Tensor, count: int, keys: Sequence[str]) -> Chosen:
    """`count` queries of each kind.

    Args:
        scores: (n, m) float32.
        groups: (n,) int64, of queries; items of the same number are right.
        gallery_groups: (m,) int64.
        keys: (n,) what names a query, for the random order.
    """
    rank, margin = _ranks(scores, groups, gallery_groups)
    known = [i for i in range(len(keys)) if rank[i] > 0]
    best = sorted(known, key=lambda i: (rank[i], -margin[i], i))[:count]
    worst = sorted(known, key=lambda i: (-rank[i], margin[i], i))[:count]
    drawn = sorted(known, key=lambda i: (_draw(keys[i], i), i))[:count]

    def told(query: int) -> Ranked:
        row = nan_last(scores[query].clone())
        right = gallery_groups == groups[query]
        right_last = right.int().sort(stable=True).indices
        order = right_last[row[right_last].sort(descending=True, stable=True).indices[:TOP]].tolist()
        hits = tuple(Hit(item, float(row[item]), bool(right[item])) for item in order)
        return Ranked(query, rank[query], margin[query], hits)

    return Chosen(*(tuple(map(told, queries)) for queries in (best, worst, drawn)))


def _ranks(scores: Tensor, groups: Tensor, gallery_groups: Tensor) -> tuple[list[int], list[float]]:
    """Rank, 0 where nothing is right, and margin of every query."""
    rank, margin = [], []
    for start in range(0, len(scores), _ROWS):
        tile = nan_last(scores[start : start + _ROWS].clone())  # (t, m)
        right = groups[start : start + _ROWS, None] == gallery_groups[None]
        best = tile.masked_fill(~right, -torch.inf).amax(dim=1)
        wrong = tile.masked_fill(right, -torch.inf)
        ahead = ((wrong >= best[:, None]) & ~right).sum(dim=1)
        rank += torch.where(right.any(dim=1), ahead + 1, 0).tolist()
        margin += nan_last(best - wrong.amax(dim=1)).tolist()
    return rank, margin


def _draw(key: str, query: int) -> bytes:
    return hashlib.blake2b(f"{key}/{query}".encode(), digest_size=8).digest()
