"""SCAN's cross attention (Lee et al., ECCV 2018, section 3.1): the score of two sets of vectors.

Every element of one set, the query, attends to the elements of the other, the context; the score says how
well what it found resembles it. There is no embedding of one item alone, so all pairs have to be scored.

With queries q_i and contexts c_j of unit length, and s_ij = q_i . c_j:
1. e_ij = norm(s)_ij, `AttentionNorm`; where it divides, by a norm over the queries i, for each context j;
2. w_ij = softmax_j(softmax_scale * e_ij), and the attended vector v_i = sum_j w_ij c_j;
3. r_i = cos(q_i, v_i);
4. the score is the mean, sum or maximum of r over i, or (1 / lse_scale) log sum_i exp(lse_scale * r_i).

Of v_i only its product with q_i and its length are needed: q_i . v_i = sum_j w_ij s_ij and
|v_i|^2 = sum_jk w_ij (c_j . c_k) w_ik. So no vector of length d is made per pair, and a pair costs m products
of length m where the published code has products of length d.

Shape letters: Q query items of n elements, C context items of m elements, d length of an element.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from swamp_dist.config import CrossAttentionSettings, ModelSettings
from swamp_dist.config.sets import TENSORS_OF_A_PAIR
from swamp_dist.records import Sets

SLOPE = 0.1
"""Of the leaky ReLU of the clipped norms, below zero; the paper's text has max(0, s)."""
EPS = 1e-8
"""As published: added to a norm that divides, and the least product of lengths in a cosine."""


def pair_score(model: ModelSettings) -> Callable[[Sets, Sets], Tensor] | None:
    """`pair_scores` of a model that makes no embeddings; None for one that does."""
    rules = model.sets
    return partial(pair_scores, rules=rules) if isinstance(rules, CrossAttentionSettings) else None


def pair_scores(a: Sets, b: Sets, rules: CrossAttentionSettings) -> Tensor:
    """`scores` (items of a, items of b), whichever modality has the queries."""
    return scores(a, b, rules) if rules.queries == "a" else scores(b, a, rules).t()


def scores(queries: Sets, contexts: Sets, rules: CrossAttentionSettings) -> Tensor:
    """The score of every query item with every context item: (Q, C), differentiable.

    Padding changes no score: what stands at places that a mask leaves out is not read. A set without an
    element scores 0 with everything.

    Args:
        queries: values (Q, n, d), float32 or float64.
        contexts: values (C, m, d).
        rules: all of it but `rules.queries`, which `pair_scores` follows.
    """
    queries, contexts = _without_padding(queries), _without_padding(contexts)
    rows, columns = _block_shape(queries, contexts, rules.memory_mib)
    score = partial(_score_block, rules=rules)
    if rows < len(queries.mask) or columns < len(contexts.mask):
        score = partial(checkpoint, score, use_reentrant=False)  # keeps no array of a pair for backward
    bands = []
    for i in range(0, len(queries.mask), rows):
        some = _rows(queries, i, rows)
        band = [score(*some, *_rows(contexts, j, columns)) for j in range(0, len(contexts.mask), columns)]
        bands.append(torch.cat(band, dim=1))
    return torch.cat(bands)


def _score_block(
    q: Tensor, q_mask: Tensor, c: Tensor, c_mask: Tensor, rules: CrossAttentionSettings
) -> Tensor:
    """`scores` of one block, whose padding is 0. Arrays of pairs are (C, Q, n, m)."""
    (num_q, n, d), (num_c, m, _) = q.shape, c.shape
    # 1. How much every element resembles every other, and what the attention is made of.
    s = (q.reshape(-1, d) @ c.reshape(-1, d).t()).view(num_q, n, num_c, m).permute(2, 0, 1, 3)
    e = _normalized(s, q_mask[:, :, None], rules.norm)
    # 2. Which elements of its context each query looks at.
    lowest = torch.finfo(s.dtype).min
    w = torch.softmax((rules.softmax_scale * e).masked_fill(~c_mask[:, None, None], lowest), dim=3)
    # 3. The cosine of a query with what it found.
    gram = c @ c.transpose(1, 2)
    lengths = (torch.bmm(w.reshape(num_c, -1, m), gram).view_as(w) * w).sum(3)
    lengths = lengths.clamp(min=torch.finfo(s.dtype).tiny).sqrt()
    product = torch.linalg.vector_norm(q, dim=2) * lengths
    r = (w * s).sum(3) / product.clamp(min=EPS)
    # 4. One number of all queries.
    found = _aggregated(r, q_mask, rules)
    has_elements = q_mask.any(1) & c_mask.any(1)[:, None]
    return found.masked_fill(~has_elements, 0).t()


def _normalized(s: Tensor, is_query: Tensor, norm: str) -> Tensor:
    """e of s (C, Q, n, m); `is_query` (Q, n, 1) says which of the n elements count."""
    if norm == "softmax":
        lowest = torch.finfo(s.dtype).min
        return torch.softmax(s.masked_fill(~is_query, lowest), dim=2).masked_fill(~is_query, 0)
    e = functional.leaky_relu(s, SLOPE) if norm.startswith("clipped") else s
    if norm in ("clipped", "no_norm"):
        return e
    order = 1 if norm.endswith("l1norm") else 2
    divisor: Tensor = torch.linalg.vector_norm(e, ord=order, dim=2, keepdim=True) + EPS
    return e / divisor


def _aggregated(r: Tensor, is_query: Tensor, rules: CrossAttentionSettings) -> Tensor:
    """r (C, Q, n) over the elements that count (Q, n): (C, Q)."""
    if rules.aggregate in ("sum", "mean"):
        total = r.masked_fill(~is_query, 0).sum(2)
        return total / is_query.sum(1).clamp(min=1) if rules.aggregate == "mean" else total
    r = r.masked_fill(~is_query, torch.finfo(r.dtype).min / max(1.0, rules.lse_scale))
    if rules.aggregate == "max":
        return r.max(dim=2).values
    return torch.logsumexp(rules.lse_scale * r, dim=2) / rules.lse_scale


def _without_padding(sets: Sets) -> Sets:
    """Zeros where a mask leaves a place out, whatever stood there."""
    return Sets(sets.values.masked_fill(~sets.mask[:, :, None], 0), sets.mask)


def _rows(sets: Sets, start: int, count: int) -> tuple[Tensor, Tensor]:
    return sets.values[start : start + count], sets.mask[start : start + count]


def _block_shape(queries: Sets, contexts: Sets, memory_mib: int) -> tuple[int, int]:
    """Query items and context items that are scored at once: all, all of the queries, or some of them."""
    (num_q, n, _), (num_c, m, _) = queries.values.shape, contexts.values.shape
    pair = TENSORS_OF_A_PAIR * n * m * queries.values.element_size()
    pairs = max(1, memory_mib * 2**20 // pair)
    return (num_q, min(num_c, pairs // num_q)) if pairs >= num_q else (pairs, 1)
