"""Euclidean distances as scores: a definition for pairs, and a fast way to the same numbers for all of them.

Shape letters: t queries, m gallery items, p pairs, D embedding size.

The score of two rows is -|q - g|: the differences in float64, their squares summed in one fixed order, the
root of the sum rounded once to float32 (`pair_distances`). It depends on the two rows alone, so items with
equal rows tie wherever they stand. `distance_scores` takes |q|^2 + |g|^2 - 2 q.g by a matrix product and
computes anew, by the definition, every pair whose float32 number the error of that leaves open: near
neighbours, above all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swamp_dist.evaluate.scores import ITEM_TILE, PAIR_BYTES, float64_gamma, nan_last, sum_halves


def pair_distances(queries: Tensor, gallery: Tensor, query: Tensor, item: Tensor) -> Tensor:
    """The scores of pairs (query[i], item[i]): (t, D), (m, D), (p,), (p,) -> (p,) float32; NaN becomes
    -inf."""
    scores = torch.empty(len(query), dtype=torch.float32, device=queries.device)
    step = max(1, PAIR_BYTES // (8 * queries.shape[1]))
    for start in range(0, len(query), step):
        chunk = slice(start, start + step)
        terms = queries[query[chunk]].double() - gallery[item[chunk]].double()
        scores[chunk] = -sum_halves(terms.square_()).sqrt()
    return nan_last(scores)


def distance_scores(queries: Tensor, gallery: Tensor) -> Tensor:
    """The scores of all pairs, bit for bit those of `pair_distances`: (t, D), (m, D) -> (t, m) float32.

    Rows are taken relative to the mean of the gallery, so that an offset of all embeddings costs no digits.
    With S = |q| + |g| of these, the product, both norms and the shift are wrong by less than
    gamma_(2D + 32) S^2 in the squared distance (Higham 2002, section 3.1), the definition's own rounding
    included.
    """
    shift = gallery.double().mean(dim=0).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    left, gamma = queries.double() - shift, float64_gamma(2 * queries.shape[1] + 32)
    square, norms = left.square().sum(dim=1, keepdim=True), torch.linalg.vector_norm(left, dim=1)
    scores = queries.new_empty(len(queries), len(gallery), dtype=torch.float32)
    for start in range(0, len(gallery), ITEM_TILE):
        columns = slice(start, start + ITEM_TILE)
        right = gallery[columns].double() - shift
        squared = (square + right.square().sum(dim=1)).addmm_(left, right.T, alpha=-2)
        error = gamma * (norms[:, None] + torch.linalg.vector_norm(right, dim=1)) ** 2
        low, high = (-(x.clamp_(min=0).sqrt_().float()) for x in (squared + error, squared - error))
        scores[:, columns] = low
        query, item = (~(low == high)).nonzero().unbind(1)  # NaN is open too
        scores[query, item + start] = pair_distances(queries, gallery, query, item + start)
    return nan_last(scores)
