"""Ranks and retrieval figures from scores: pure, in tiles, without ever holding the full matrix.

Shape letters: n queries, t queries of one tile, m gallery items, c cut-offs, D embedding size.

Two items are relevant to each other when they carry the same group number: the entry they belong to
(pair relevance, several captions of one video included) or their class. The rank of a query is the
place of its best-scoring relevant item. Places are integers and tied scores are counted against the
model, so a model that maps everything to one point ranks last and not first. A query without a relevant item
ranks behind the whole gallery, at m + 1, and all its precisions are 0, as scikit-learn's are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from swamp_dist.evaluate.counts import count_ahead
from swamp_dist.evaluate.distances import distance_scores
from swamp_dist.evaluate.gallery import Gallery, Grouped, RelevantPairs, relevant_pairs
from swamp_dist.evaluate.scores import float64_scores

Ties = Literal["pessimistic", "miech"]
Distance = Literal["cosine", "euclidean"]

QUERY_TILE = 256
"""Queries ranked together; a few stripes of QUERY_TILE x m scores are the largest thing held."""
RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class Figures:
    """Retrieval figures of one direction; all but the median rank are percentages."""

    r_at_1: float
    r_at_5: float
    r_at_10: float
    median_rank: float
    map: float | None = None
    precision_at: Mapping[int, float] = field(default_factory=dict)
    map_at: Mapping[int, float] = field(default_factory=dict)
    map_at_hits: Mapping[int, float] = field(default_factory=dict)
    hit_at: Mapping[int, float] = field(default_factory=dict)


class Cutoffs(NamedTuple):
    """Where precisions are taken."""

    first: tuple[int, ...] = ()
    """c values of k: the first k places."""
    place: tuple[int, ...] = ()
    """h single places, counted from 1."""

    @property
    def columns(self) -> int:
        """Figures that `precisions` gives of a query."""
        return 1 + 3 * len(self.first) + len(self.place)


def places_of_relevant(scores: Tensor, relevant: RelevantPairs) -> tuple[Tensor, Tensor]:
    """Where the relevant items stand, irrelevant before relevant among equals; spends `scores` (t, m).

    Only the scores of the irrelevant items are sorted, without their indices; a binary search finds how many
    of them stand before each relevant one.

    Returns:
        ranks: (t, 2) int64, irrelevant items ahead of and tied with the best relevant one. Items that score
            -inf (NaN) stand behind every irrelevant item and tie with none.
        places: (t, R) int64, 1-based, in ascending order; R is the largest number of relevant items of a
            query, at least 1, and 0 fills up rows that have fewer.
    """
    m = scores.shape[1]
    best_first = scores.new_full((len(scores), max(1, int(relevant.counts.max()))), -torch.inf)
    best_first[relevant.query, relevant.nth] = scores[relevant.query, relevant.item]
    best_first = -_sort_rows(-best_first)
    scores[relevant.query, relevant.item] = -torch.inf
    ordered = _sort_rows(scores)
    irrelevant = m - relevant.counts[:, None]
    before = (m - torch.searchsorted(ordered, best_first)).minimum(irrelevant)
    best = best_first[:, :1].contiguous()
    ahead = (m - torch.searchsorted(ordered, best, right=True)).minimum(irrelevant)
    ahead = torch.where(best == -torch.inf, irrelevant, ahead)
    nth = torch.arange(1, best_first.shape[1] + 1, device=scores.device)
    places = torch.where(nth <= relevant.counts[:, None], before + nth, 0)
    return torch.cat([ahead, before[:, :1] - ahead], dim=1), places


def _sort_rows(values: Tensor) -> Tensor:
    """Each row in ascending order. By numpy on a CPU: torch sorts the indices too, ten times as long."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values


def precisions(places: Tensor, cutoffs: Cutoffs) -> Tensor:
    """Precisions of every query from `places_of_relevant`: (t, R) -> (t, 1 + 3c + h) float64, shares of 1.

    In this order, the figures of one kind side by side:
        AP, the mean over relevant items of the precision at their places, over the whole gallery: the
            step-wise sum of scikit-learn's average_precision_score. That one gives all relevant items of one
            score the precision behind them all; here they stand behind each other, irrelevant ones of that
            score first. So AP is never above it, and equal where no two relevant items of a query tie.
        P@k divides by k; places beyond the end of the gallery are misses.
        AP@k sums the precision at the hits among the first k and divides by min(k, number of relevant items).
        AP@k over hits divides the same sum by the number of these hits; 0 where there is none. (The code of
            Doodle to Search, Dey et al. 2019, calls it mAP@200.)
        Hit at n: whether the item at place n alone is relevant. (There "P@200" is the hit at 201.)
    """
    found = places > 0
    num_relevant = found.sum(dim=1).clamp(min=1)
    nth = torch.arange(1, places.shape[1] + 1, dtype=torch.float64, device=places.device)
    gained = torch.where(found, nth / places, 0)
    hits = [found & (places <= k) for k in cutoffs.first]
    counts = [hit.sum(dim=1) for hit in hits]
    sums = [(gained * hit).sum(dim=1) for hit in hits]
    columns = [gained.sum(dim=1) / num_relevant]
    columns += [count.double() / k for count, k in zip(counts, cutoffs.first, strict=True)]
    columns += [each / num_relevant.clamp(max=k) for each, k in zip(sums, cutoffs.first, strict=True)]
    columns += [each / count.clamp(min=1) for each, count in zip(sums, counts, strict=True)]
    columns += [(places == n).any(dim=1).double() for n in cutoffs.place]
    return torch.stack(columns, dim=1)


def rank_tile(
    queries: Tensor,
    groups: Tensor,
    gallery: Gallery,
    cutoffs: Cutoffs | None,
    distance: Distance = "cosine",
) -> Tensor:
    """One row of raw figures per query: (t, 2) or, where `cutoffs` is given, (t, 3 + 3c + h), float64.

    Columns: irrelevant items ahead, items tied (both exact integers), then those of `precisions`.

    Args:
        queries: (t, D) rows, for `cosine` of unit length. groups: (t,) int64.
        gallery: m items.
        cutoffs: of precisions, or None for ranks alone: without places a float32 product is enough.
        distance: `cosine` scores by products, `euclidean` by negative distances.
    """
    if distance == "euclidean":
        return rank_scores(distance_scores(queries, gallery.rows), groups, gallery, cutoffs)
    if cutoffs is None:
        return count_ahead(queries, groups, gallery).double()
    scores = float64_scores(queries, gallery.rows)
    return rank_scores(scores, groups, gallery, cutoffs)


def rank_scores(scores: Tensor, groups: Tensor, gallery: Grouped, cutoffs: Cutoffs | None) -> Tensor:
    """`rank_tile` of scores that are known, (t, m); spends them."""
    ranks, places = places_of_relevant(scores, relevant_pairs(groups, gallery))
    return ranks.double() if cutoffs is None else torch.cat([ranks.double(), precisions(places, cutoffs)], 1)


def place_counts(ahead: Tensor, tied: Tensor, num_items: int, ties: Ties) -> Tensor:
    """How often each place 0 .. m-1 was reached: (n,), (n,) int64 -> (m,) int64.

    `pessimistic`: a query stands once, behind everything tied with it; its rank is
    1 + number of irrelevant items with a score >= its best relevant one.
    `miech`: a query stands at every place of its tie (np.where(sorted == diagonal) in the published
    evaluation of Miech et al. 2019), so there are more places than queries as soon as scores tie.
    """
    if ties == "pessimistic":
        return torch.bincount(ahead + tied, minlength=num_items)
    starts = torch.bincount(ahead, minlength=num_items + 1)
    ends = torch.bincount(ahead + tied + 1, minlength=num_items + 1)
    return (starts - ends).cumsum(0)[:num_items]


def median_rank(counts: Tensor) -> float:
    """Median of 1-based ranks given `place_counts`; the mean of the middle two of an even number."""
    reached = counts.cumsum(0)
    total = int(reached[-1])
    middle = torch.tensor([(total - 1) // 2, total // 2], device=counts.device)
    return float(torch.searchsorted(reached, middle, right=True).double().mean()) + 1


def figures(raw: Tensor, num_items: int, ties: Ties, cutoffs: Cutoffs) -> Figures:
    """Figures of one direction from the rows of `rank_tile` of all its queries: (n, 2 or 3 + 3c + h)."""
    counts = place_counts(raw[:, 0].long(), raw[:, 1].long(), num_items, ties)
    within = [min(k, num_items) for k in RECALL_AT]  # place m + 1 is none
    recalls = [100 * int(counts[:k].sum()) / int(counts.sum()) for k in within]
    median = median_rank(counts)
    if raw.shape[1] == 2:
        return Figures(recalls[0], recalls[1], recalls[2], median)
    mean, *means = (100 * raw[:, 2:].mean(dim=0)).tolist()
    c = len(cutoffs.first)
    by_cutoff = [dict(zip(cutoffs.first, means[i * c : (i + 1) * c], strict=True)) for i in range(3)]
    by_cutoff.append(dict(zip(cutoffs.place, means[3 * c :], strict=True)))
    return Figures(recalls[0], recalls[1], recalls[2], median, mean, *by_cutoff)


def relevant_counts(groups: Tensor, gallery_groups: Tensor) -> Tensor:
    """How many gallery items are relevant to each query: groups (n,), (m,) >= 0 -> (n,) int64."""
    length = int(torch.cat([groups, gallery_groups]).max()) + 1
    return torch.bincount(gallery_groups, minlength=length)[groups]
