"""How many irrelevant items beat the best relevant one: exact integers, most of them from a float32 product.

Shape letters: t queries of one tile, m gallery items, D embedding size.

A float32 product decides every comparison that its error bound allows; the few items that are left are scored
anew by `pair_scores`. Where many are left (a collapsed model, duplicates, numbers that are not finite), a
float64 product narrows them down first. The integers are those of `pair_scores` on all pairs: neither the
tile nor the way that was taken can change them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swamp_dist.evaluate.gallery import Gallery, RelevantPairs, relevant_pairs
from swamp_dist.evaluate.scores import (
    float32_bound,
    float32_scores,
    float64_intervals,
    pair_scores,
    row_norms,
)

DENSE = 32
"""One score of `pair_scores` takes as long as about 32 of a float64 product."""


def count_ahead(queries: Tensor, groups: Tensor, gallery: Gallery) -> Tensor:
    """Irrelevant items that beat, and that tie with, the best relevant one: (t, 2) int64.

    A query whose relevant items all score -inf stands behind every irrelevant item under any rule of ties: no
    figure may profit from a NaN.

    Args:
        queries: (t, D). groups: (t,) int64, each with an item in the gallery.
    """
    norms = row_norms(queries)
    bound = float32_bound(norms, float(gallery.norms.max()), queries.shape[1])
    if queries.dtype != torch.float32 or not bool(bound.isfinite().all()):
        return _count_by_float64(queries, groups, gallery)
    scores = float32_scores(queries, gallery.rows)
    return count_by_float32(scores, bound, queries, groups, gallery)


def count_by_float32(
    scores: Tensor, bound: Tensor, queries: Tensor, groups: Tensor, gallery: Gallery
) -> Tensor:
    """`count_ahead` from scores (t, m) within `bound` (t,) of those of `pair_scores`; spends `scores`."""
    relevant = relevant_pairs(groups, gallery)
    theirs = scores[relevant.query, relevant.item]
    best = _largest(theirs, relevant.query, len(queries))
    scores[relevant.query, relevant.item] = -torch.inf
    low, high = (best - 2 * bound).float(), (best + 2 * bound).float()
    flags = torch.empty_like(scores)  # float32 ones add up without a copy, and exactly below 2^24 items
    ahead = torch.gt(scores, high[:, None], out=flags).sum(dim=1).long()
    left = torch.ge(scores, low[:, None], out=flags).sum(dim=1).long() - ahead
    counts = torch.stack([ahead, torch.zeros_like(ahead)], dim=1)
    rows = left.nonzero().squeeze(1)
    if DENSE * int(left.sum()) > len(rows) * scores.shape[1]:
        counts[rows] = _count_by_float64(queries[rows], groups[rows], gallery)
        return counts

    # The best score itself, then the items that are as close to it as the product may be wrong.
    chosen = (left[relevant.query] > 0) & (theirs >= low[relevant.query])
    query, item = relevant.query[chosen], relevant.item[chosen]
    best = _largest(pair_scores(queries, gallery.rows, query, item), query, len(queries))
    query, item, values = _between(scores, low, high, rows)
    close = (values.double() - best[query]).abs() <= bound[query]
    values[close] = pair_scores(queries, gallery.rows, query[close], item[close])
    return _add(counts, query, values, best)


def _between(scores: Tensor, low: Tensor, high: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, item and value (p,) of the scores (t, m) of these rows between two limits (t,)."""
    band = scores[rows]
    place, item = ((band >= low[rows, None]) & (band <= high[rows, None])).nonzero().unbind(1)
    return rows[place], item, band[place, item]


def _count_by_float64(queries: Tensor, groups: Tensor, gallery: Gallery) -> Tensor:
    """`count_ahead` from float64 products, which hold the score of most pairs."""
    relevant = relevant_pairs(groups, gallery)
    low, high = float64_intervals(queries, gallery.rows, row_norms(queries), gallery.norms)
    best = _best_of_intervals(low, high, relevant, queries, gallery)
    low[relevant.query, relevant.item] = torch.nan  # no comparison holds: neither ahead nor tied
    level = best[:, None]
    left = (low <= level) & (high >= level) & (low < high)
    ahead, tied = (low > level).sum(dim=1), ((low == level) & ~left).sum(dim=1)
    query, item = left.nonzero().unbind(1)
    values = pair_scores(queries, gallery.rows, query, item)
    counts = _add(torch.stack([ahead, tied], dim=1), query, values, best)
    lost = best == -torch.inf
    counts[lost] = torch.stack([counts[lost].sum(dim=1), torch.zeros_like(ahead[lost])], dim=1)
    return counts


def _best_of_intervals(
    low: Tensor, high: Tensor, relevant: RelevantPairs, queries: Tensor, gallery: Gallery
) -> Tensor:
    """(t,) float32 score of the best relevant item."""
    query, item = relevant.query, relevant.item
    values, highest = low[query, item], high[query, item]
    unsure = (values < highest) & (highest >= _largest(values, query, len(queries))[query])
    values[unsure] = pair_scores(queries, gallery.rows, query[unsure], item[unsure])
    return _largest(values, query, len(queries))


def _largest(values: Tensor, query: Tensor, num_queries: int) -> Tensor:
    """The largest value of each query, -inf where it has none: (p,), (p,) -> (t,)."""
    return values.new_full((num_queries,), -torch.inf).scatter_reduce(0, query, values, "amax")


def _add(counts: Tensor, query: Tensor, values: Tensor, best: Tensor) -> Tensor:
    """`counts` (t, 2) with the items of these scores (p,) added."""
    level = best[query]
    return counts.index_add(0, query, torch.stack([values > level, values == level], dim=1).long())
