"""Ranks and retrieval figures from scores: pure, in tiles, without ever holding the full matrix.

Shape letters: n queries, t queries of one tile, m gallery items, c cut-offs, D embedding size.

Two items are relevant to each other when they carry the same group number: the entry they belong to
(pair relevance, several captions of one video included) or their class. The rank of a query is the
place of its best-scoring relevant item. Places are integers and tied scores are counted against the
model, so a model that maps everything to one point ranks last and not first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Ties = Literal["pessimistic", "miech"]

QUERY_TILE = 128
"""Queries ranked together; a stripe of QUERY_TILE x m scores is the largest thing held."""
GALLERY_TILE = 4096
"""Gallery items scored together."""
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


def score_stripe(queries: Tensor, gallery: Tensor) -> Tensor:
    """Cosine scores of unit-length rows: (t, D), (m, D) -> (t, m) float32; NaN becomes -inf.

    The product is taken in float64 and rounded once to float32. Equal inputs then score equal
    wherever they stand: a float32 product of the same two rows differs with its place in the tile,
    which would split ties at random.
    """
    left = queries.double()
    starts = range(0, len(gallery), GALLERY_TILE)
    tiles = [(left @ gallery[i : i + GALLERY_TILE].double().T).float() for i in starts]
    return torch.cat(tiles, dim=1).nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def count_ahead(scores: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Irrelevant items that beat, and that tie with, the best relevant one.

    Args:
        scores: (t, m), -inf where the score is not a number.
        relevant: (t, m) bool, with at least one True a row.

    Returns:
        ahead: (t,) int64, irrelevant items with a greater score.
        tied: (t,) int64, irrelevant items with exactly that score. A query whose relevant items all
            score -inf stands behind every irrelevant item under any rule of ties: no figure may
            profit from a NaN.
    """
    best = scores.masked_fill(~relevant, -torch.inf).amax(dim=1, keepdim=True)
    ahead = ((scores > best) & ~relevant).sum(dim=1)
    tied = ((scores == best) & ~relevant).sum(dim=1)
    lost = best.squeeze(1) == -torch.inf
    return torch.where(lost, ahead + tied, ahead), torch.where(lost, 0, tied)


def hits_in_order(scores: Tensor, relevant: Tensor) -> Tensor:
    """Relevance of the gallery in ranked order, irrelevant before relevant among equals: (t, m) bool.

    One sort does both: the score's bits as an order-preserving integer, with relevance as the bit
    below the lowest.
    """
    bits = (scores.float() + 0.0).view(torch.int32).long()  # + 0.0: -0.0 and 0.0 are one score
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = ordered * 2 + (~relevant).long()
    return keys.sort(dim=1, descending=True).values % 2 == 0


def precisions(hits: Tensor, cutoffs: Sequence[int]) -> Tensor:
    """AP, P@k and AP@k of every query: (t, m) bool -> (t, 1 + 2c) float64, shares of 1.

    AP is the mean over relevant items of the precision at their places, over the whole gallery.
    P@k divides by k (places beyond the end of the gallery are misses). AP@k sums the precision at
    the hits among the first k and divides by min(k, number of relevant items).
    """
    found = hits.double().cumsum(dim=1)
    num_relevant = found[:, -1]
    places = torch.arange(1, hits.shape[1] + 1, dtype=torch.float64, device=hits.device)
    gained = (found / places * hits).cumsum(dim=1)
    columns = [gained[:, -1] / num_relevant]
    last = [min(k, hits.shape[1]) - 1 for k in cutoffs]
    columns += [found[:, i] / k for i, k in zip(last, cutoffs, strict=True)]
    columns += [gained[:, i] / num_relevant.clamp(max=k) for i, k in zip(last, cutoffs, strict=True)]
    return torch.stack(columns, dim=1)


def rank_tile(
    queries: Tensor, groups: Tensor, gallery: Tensor, gallery_groups: Tensor, cutoffs: Sequence[int] | None
) -> Tensor:
    """One row of raw figures a query: (t, 2) or, where `cutoffs` is given, (t, 3 + 2c), float64.

    Columns: irrelevant items ahead, items tied (both exact integers), then those of `precisions`.

    Args:
        queries: (t, D) unit-length rows. groups: (t,) int64.
        gallery: (m, D) unit-length rows. gallery_groups: (m,) int64; holds every query's group.
        cutoffs: values of k, or None for ranks alone (saves the sort).
    """
    scores = score_stripe(queries, gallery)
    relevant = groups[:, None] == gallery_groups[None, :]
    ranks = torch.stack(count_ahead(scores, relevant), dim=1).double()
    if cutoffs is None:
        return ranks
    return torch.cat([ranks, precisions(hits_in_order(scores, relevant), cutoffs)], dim=1)


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


def figures(raw: Tensor, num_items: int, ties: Ties, cutoffs: Sequence[int]) -> Figures:
    """Figures of one direction from the rows of `rank_tile` of all its queries: (n, 2 or 3 + 2c)."""
    counts = place_counts(raw[:, 0].long(), raw[:, 1].long(), num_items, ties)
    recalls = [100 * int(counts[:k].sum()) / int(counts.sum()) for k in RECALL_AT]
    median = median_rank(counts)
    if raw.shape[1] == 2:
        return Figures(recalls[0], recalls[1], recalls[2], median)
    means = (100 * raw[:, 2:].mean(dim=0)).tolist()
    precision_at = dict(zip(cutoffs, means[1:], strict=False))
    map_at = dict(zip(cutoffs, means[1 + len(cutoffs) :], strict=True))
    return Figures(recalls[0], recalls[1], recalls[2], median, means[0], precision_at, map_at)


def relevant_counts(groups: Tensor, gallery_groups: Tensor) -> Tensor:
    """How many gallery items are relevant to each query: groups (n,), (m,) >= 0 -> (n,) int64."""
    length = int(torch.cat([groups, gallery_groups]).max()) + 1
    return torch.bincount(gallery_groups, minlength=length)[groups]
