"""Ranks and precisions from a float64 product of everything and a full sort: what tests compare with."""

from __future__ import annotations

import torch
from torch import Tensor

from swamp_dist.evaluate.ranking import Cutoffs


def dense_scores(queries: Tensor, gallery: Tensor) -> Tensor:
    """Float64 products rounded once to float32; NaN becomes -inf."""
    scores = (queries.double() @ gallery.double().T).float()
    return scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def dense_counts(scores: Tensor, relevant: Tensor) -> Tensor:
    """(t, 2): irrelevant items ahead of, and tied with, the best relevant one."""
    best = scores.masked_fill(~relevant, -torch.inf).amax(dim=1, keepdim=True)
    ahead = ((scores > best) & ~relevant).sum(dim=1)
    tied = ((scores == best) & ~relevant).sum(dim=1)
    lost = best.squeeze(1) == -torch.inf
    return torch.stack([torch.where(lost, ahead + tied, ahead), torch.where(lost, 0, tied)], dim=1)


def dense_precisions(scores: Tensor, relevant: Tensor, cutoffs: Cutoffs) -> Tensor:
    """The columns of `ranking.precisions` from a sort of score and relevance."""
    bits = (scores.float() + 0.0).view(torch.int32).long()  # + 0.0: -0.0 and 0.0 are one score
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = ordered * 2 + (~relevant).long()
    hits = keys.sort(dim=1, descending=True).values % 2 == 0
    found = hits.double().cumsum(dim=1)
    places = torch.arange(1, hits.shape[1] + 1, dtype=torch.float64)
    gained = (found / places * hits).cumsum(dim=1)
    last = [min(k, hits.shape[1]) - 1 for k in cutoffs.first]
    columns = [gained[:, -1] / found[:, -1]]
    columns += [found[:, i] / k for i, k in zip(last, cutoffs.first, strict=True)]
    columns += [gained[:, i] / found[:, -1].clamp(max=k) for i, k in zip(last, cutoffs.first, strict=True)]
    columns += [gained[:, i] / found[:, i].clamp(min=1) for i in last]
    columns += [
        hits[:, n - 1].double() if n <= hits.shape[1] else torch.zeros(len(hits)).double()
        for n in cutoffs.place
    ]
    return torch.stack(columns, dim=1)
