"""Networks that make one vector of a set of vectors, shared by both modalities."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from swamp_dist.config import MeanSettings, ParSettings
from swamp_dist.config.sets import SetPooling
from swamp_dist.records import Sets


def build_sets(settings: SetPooling, width: int) -> nn.Module:
    """The network that the settings describe for elements of length `width`: `records.Sets` -> (b, D).

    Raises:
        TypeError: settings of no kind that is known.
    """
    if isinstance(settings, ParSettings):
        return PrototypeAttention(settings, width)
    if isinstance(settings, MeanSettings):
        return MeanOfElements()
    raise TypeError(f"{type(settings).__name__} describes no pooling of sets")


def attend(
    keys: Tensor, values: Tensor, mask: Tensor, queries: Tensor, temperature: float, compare: str = "dot"
) -> Tensor:
    """z_hj = sum_i a_hji v_hi with a_hj = softmax over i of s(q_hj, x_hi) / T (paper, section 5.3).

    s is q . x, q . x / sqrt(d), or their cosine. Two batched products of every element with every query, so
    linear in the number of elements. Elements that the mask leaves out have weight 0; a set without any
    gives zeros.

    Args:
        keys: (b, n, H, d) elements x as heads compare them.
        values: (b, n, H, d) elements v as they are summed.
        mask: (b, n) bool, True where an element stands.
        queries: (H, p, d).
        temperature: T.
        compare: dot, scaled_dot or cosine.

    Returns:
        (b, H, p, d)
    """
    b, n, heads, d = keys.shape
    if compare == "cosine":
        keys, queries = functional.normalize(keys, dim=-1), functional.normalize(queries, dim=-1)
    scale = temperature * (math.sqrt(d) if compare == "scaled_dot" else 1.0)
    by_head = keys.reshape(b * n, heads, d).transpose(0, 1)
    scores = torch.bmm(by_head, queries.transpose(1, 2)).view(heads, b, n, -1) / scale
    out = ~mask.view(1, b, n, 1)
    # The lowest number and not -inf, whose softmax is no number where a set has no elements.
    lowest = torch.finfo(scores.dtype).min
    weights = torch.softmax(scores.masked_fill(out, lowest), dim=2).masked_fill(out, 0)
    summed = torch.matmul(weights.transpose(2, 3), values.permute(2, 0, 1, 3))  # (H, b, p, d)
    return summed.transpose(0, 1)


class PrototypeAttention(nn.Module):
    """PAR (paper, section 5.3 and appendix D): phi(V) = concat of z_hj over heads h and queries j."""

    def __init__(self, settings: ParSettings, width: int) -> None:
        """New queries for elements of length `width`.

        `queries` is (H, p, d), d the width or, of `slice`, width / H. Set Transformer starts points of shape
        (1, p, d) by `xavier_uniform_`, which takes p * d for inputs and d for outputs; so is every head here.
        """
        super().__init__()
        self.settings = settings
        d = width // settings.heads if settings.head_form == "slice" else width
        queries = torch.empty(settings.heads, settings.queries, d)
        if settings.queries_start == "xavier":
            bound = math.sqrt(6 / ((settings.queries + 1) * d))
            queries.uniform_(-bound, bound)
        else:
            queries.normal_(0, 1 / math.sqrt(d))
        self.queries = nn.Parameter(queries)
        projects = settings.head_form == "project"
        self.heads = nn.Linear(width, settings.heads * width, bias=False) if projects else None
        self.values = nn.Linear(width, width, bias=False) if settings.value_projection else None

    def forward(self, sets: Sets) -> Tensor:
        """Sets (b, n, width) -> (b, D), head after head, query after query, not yet of unit length."""
        settings, x = self.settings, sets.values
        queries: Tensor = self.queries
        if settings.head_form == "repeat":  # heads over the same elements are one head of all queries
            queries = queries.reshape(1, -1, queries.shape[2])
        keys = self._by_head(x, len(queries))
        values = keys if self.values is None else self._by_head(self.values(x), len(queries))
        queries = queries.to(keys.dtype)
        z = attend(keys, values, sets.mask, queries, settings.temperature, settings.compare)
        if settings.norm == "query":
            z = functional.normalize(z, dim=-1)
        return z.flatten(1)

    def _by_head(self, x: Tensor, heads: int) -> Tensor:
        """(b, n, width) -> (b, n, H, d)."""
        elements = x if self.heads is None else self.heads(x)
        return elements.view(*x.shape[:2], heads, -1)


class MeanOfElements(nn.Module):
    """The mean of a set's elements; of a set without any, zeros."""

    def forward(self, sets: Sets) -> Tensor:
        """Sets (b, n, width) -> (b, width)."""
        total: Tensor = sets.values.masked_fill(~sets.mask.unsqueeze(2), 0).sum(1)
        return total / sets.mask.sum(1, keepdim=True).clamp(min=1)
