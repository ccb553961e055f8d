"""What a random order of the gallery would score: the floor that every table should show."""

from __future__ import annotations

import torch
from torch import Tensor

from swamp_dist.evaluate.ranking import RECALL_AT, Cutoffs, Figures


def chance(num_items: int, relevant: Tensor, cutoffs: Cutoffs | None = None) -> Figures:
    """Expected figures of a uniformly random ranking, exact (no sampling).

    With R of m items relevant, the first k places hold none of them with probability
    C(m-R, k) / C(m, k) (hypergeometric); R@k is one minus the mean of that over queries. The median
    is the smallest rank that at least half of all queries are expected to reach.

    Args:
        num_items: gallery size m.
        relevant: (n,) int64, relevant items of each query, each between 0 and m.
        cutoffs: of precisions, or None to leave out all of these figures.
    """
    sizes, weights = _distribution(relevant)
    missed = sum(
        (w * _miss_probability(num_items, r) for r, w in zip(sizes, weights, strict=True)), torch.zeros(1)
    )
    recalls = [100 * (1 - float(missed[min(k, num_items)])) for k in RECALL_AT]
    median = float((missed > 0.5 + 1e-9).sum())  # missed[k] falls from 1 at k = 0: the first k at <= 1/2
    if cutoffs is None:
        return Figures(recalls[0], recalls[1], recalls[2], median)
    gained = [_expected_gain(num_items, r) for r in sizes]
    weighted = list(zip(sizes, weights, gained, strict=True))
    share = sum(w * r for r, w in zip(sizes, weights, strict=True)) / num_items
    precision = {k: share * min(k, num_items) / k for k in cutoffs.first}
    map_at = {
        k: sum(w * float(g[min(k, num_items) - 1]) / min(k, max(r, 1)) for r, w, g in weighted)
        for k in cutoffs.first
    }
    over_hits = {k: _expected_over_hits(min(k, num_items), share, missed) for k in cutoffs.first}
    hit_at = {n: share if n <= num_items else 0.0 for n in cutoffs.place}
    mean = sum(w * float(g[-1]) / max(r, 1) for r, w, g in weighted)
    by_cutoff = [_percent(each) for each in (precision, map_at, over_hits, hit_at)]
    return Figures(recalls[0], recalls[1], recalls[2], median, 100 * mean, *by_cutoff)


def _distribution(relevant: Tensor) -> tuple[list[int], list[float]]:
    """Distinct numbers of relevant items, and the share of queries that have each."""
    counts = torch.bincount(relevant)
    sizes = counts.nonzero().squeeze(1)
    return sizes.tolist(), (counts[sizes].double() / len(relevant)).tolist()


def _miss_probability(num_items: int, relevant: int) -> Tensor:
    """(m + 1,) float64: probability that the first k places hold no relevant item, k = 0 .. m."""
    taken = torch.arange(num_items, dtype=torch.float64)
    stays = ((num_items - relevant - taken) / (num_items - taken)).clamp(min=0)
    return torch.cat([torch.ones(1, dtype=torch.float64), stays.cumprod(0)])


def _expected_gain(num_items: int, relevant: int) -> Tensor:
    """(m,) float64: expected sum of the precision at the hits among the first k places, k = 1 .. m.

    Place i is a hit with probability R/m; given that, each of the i-1 places before it is one with
    probability (R-1)/(m-1).
    """
    places = torch.arange(1, num_items + 1, dtype=torch.float64)
    others = (relevant - 1) / max(num_items - 1, 1)
    return ((1 + (places - 1) * others) / places * (relevant / num_items)).cumsum(0)


def _expected_over_hits(places: int, share: float, missed: Tensor) -> float:
    """Expected sum of the precision at the hits among the first k places, over the number of these hits; 0
    where there is none.

    Given h of them, they are any h of the k places, so the sum over h is H/k + (h-1) (k - H) / (k (k-1)) with
    H = 1 + 1/2 + ... + 1/k: linear in h, so the mean number of hits and the probability of one are enough.

    Args:
        places: k, at most the size of the gallery.
        share: mean share of the gallery that is relevant to a query.
        missed: (m + 1,) mean probability that the first k places hold no relevant item.
    """
    harmonic = sum(1 / i for i in range(1, places + 1))
    hit, further = 1 - float(missed[places]), (places - harmonic) / max(places - 1, 1)
    return (harmonic * hit + (places * share - hit) * further) / places


def _percent(shares: dict[int, float]) -> dict[int, float]:
    return {k: 100 * share for k, share in shares.items()}
