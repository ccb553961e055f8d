"""Scores of queries and gallery items: the definition, and two faster products with bounds of their error.

Shape letters: t queries, m gallery items, p pairs, D embedding size.

The score of two rows is their product, summed in float64 in one fixed order and rounded once to float32
(`pair_scores`). It depends on the two rows alone, so items with equal rows tie wherever they stand. Matrix
products sum in an order of their own: theirs are scores up to a bound, and who compares them must ask for
`pair_scores` where the bound leaves a comparison open.

Bounds are those of Higham, Accuracy and Stability of Numerical Algorithms (2nd edition, 2002), section 3.1: a
sum of n products, in any order and with or without fused operations, differs from the exact one by at most
gamma_n sum_i |q_i g_i| <= gamma_n |q| |g|, where gamma_n = n u / (1 - n u) and u is the unit roundoff.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from swamp_dist.objective.products import full_precision

ITEM_TILE = 512
"""Gallery items of one product: its scores stay in the cache."""
DEPTH = 256
"""Products summed by one float32 product. Such sums are then added: the bound grows with D / DEPTH only."""
PAIR_BYTES = 2**21
"""Bytes of float64 rows that `pair_scores` holds at once, of each side."""
_U32, _U64 = 2.0**-24, 2.0**-53
_SMALLEST, _LARGEST = 2.0**-126, 2.0**126


def row_norms(rows: Tensor) -> Tensor:
    """Euclidean norms: (n, D) -> (n,) float64, rounded upwards by more than a float32 sum can lose."""
    dim = rows.shape[1]
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1).double()
    return (norms + math.sqrt(dim * _SMALLEST)) * (1 + 2 * _gamma(dim + 2, _U32))


def pair_scores(queries: Tensor, gallery: Tensor, query: Tensor, item: Tensor) -> Tensor:
    """The scores of pairs (query[i], item[i]): (t, D), (m, D), (p,), (p,) -> (p,) float32; NaN becomes -inf.

    Products of float32 numbers are exact in float64. Halves of the row are added until one number is left, so
    no number of threads, device or position changes the sum.
    """
    scores = torch.empty(len(query), dtype=torch.float32, device=queries.device)
    step = min(max(1, PAIR_BYTES // (8 * queries.shape[1])), len(query))
    picked = queries.new_empty(step, queries.shape[1])
    terms, factors = queries.new_empty(
        2, *picked.shape, dtype=torch.float64
    )  # new memory costs more than sums
    for start in range(0, len(query), max(1, step)):
        chunk = slice(start, start + step)
        n = len(query[chunk])
        terms[:n] = torch.index_select(queries, 0, query[chunk], out=picked[:n])
        factors[:n] = torch.index_select(gallery, 0, item[chunk], out=picked[:n])
        scores[chunk] = sum_halves(terms[:n].mul_(factors[:n]))
    return nan_last(scores)


def sum_halves(terms: Tensor) -> Tensor:
    """Sums of rows, always in the same order: (p, D) -> (p,); spends `terms`."""
    width = terms.shape[1]
    while width > 1:
        half = (width + 1) // 2
        terms[:, : width - half] += terms[:, half:width]
        width = half
    return terms[:, 0]


def nan_last(scores: Tensor) -> Tensor:
    """NaN becomes -inf in place."""
    return scores.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def float32_scores(queries: Tensor, gallery: Tensor) -> Tensor:
    """Scores up to `float32_bound`: (t, D), (m, D) float32 -> (t, m)."""
    scores = queries.new_empty(len(queries), len(gallery))
    memory = queries.new_empty(2, len(queries) * min(ITEM_TILE, len(gallery)))
    with full_precision(queries.device.type):
        for start in range(0, len(gallery), ITEM_TILE):
            items = gallery[start : start + ITEM_TILE]
            total, part = (x[: len(queries) * len(items)].view(-1, len(items)) for x in memory)
            torch.mm(queries[:, :DEPTH], items[:, :DEPTH].T, out=total)
            for k in range(DEPTH, queries.shape[1], DEPTH):
                total += torch.mm(queries[:, k : k + DEPTH], items[:, k : k + DEPTH].T, out=part)
            scores[:, start : start + len(items)] = total
    return scores


def float32_bound(norms: Tensor, largest: float, dim: int) -> Tensor:
    """Bound of |`float32_scores` - `pair_scores`| per query: (t,) float64, inf where float32 may overflow.

    A product takes part in DEPTH additions at most and in one for each block. Three more roundings are those
    of the score itself and of sums with the bound; products below the normal numbers may be lost.

    Args:
        norms: (t,) norms of the queries.
        largest: norm of the longest gallery item.
        dim: embedding size D.
    """
    rounded = min(DEPTH, dim) + math.ceil(dim / DEPTH) + 3
    size = norms * largest
    bound = _gamma(rounded, _U32) * size + dim * _SMALLEST
    return torch.where(size < _LARGEST, bound, torch.inf)


def float64_intervals(
    queries: Tensor, gallery: Tensor, norms: Tensor, item_norms: Tensor
) -> tuple[Tensor, Tensor]:
    """Lowest and highest value that each score can have: twice (t, m) float32, equal for most pairs.

    Args:
        queries: (t, D). norms: (t,) their norms.
        gallery: (m, D). item_norms: (m,) their norms.
    """
    gamma = _gamma(2 * queries.shape[1] + 4, _U64)
    low, high = queries.new_empty(2, len(queries), len(gallery), dtype=torch.float32)
    for columns, products in _float64_products(queries, gallery):
        bound = gamma * norms[:, None] * item_norms[columns]
        bound.masked_fill_(~products.isfinite(), 0)  # the same in any order: it comes from the rows
        low[:, columns] = products - bound
        high[:, columns] = products + bound
    return nan_last(low), nan_last(high)


def float64_scores(queries: Tensor, gallery: Tensor) -> Tensor:
    """Float64 products rounded once: (t, D), (m, D) -> (t, m) float32; NaN becomes -inf.

    The scores of `pair_scores` unless a sum falls within 1e-12 of the middle between two float32 numbers.
    """
    scores = queries.new_empty(len(queries), len(gallery), dtype=torch.float32)
    for columns, products in _float64_products(queries, gallery):
        scores[:, columns] = products
    return nan_last(scores)


def _float64_products(queries: Tensor, gallery: Tensor) -> Iterator[tuple[slice, Tensor]]:
    left = queries.double()
    for start in range(0, len(gallery), ITEM_TILE):
        columns = slice(start, start + ITEM_TILE)
        yield columns, left @ gallery[columns].double().T


def float64_gamma(n: int) -> float:
    """gamma_n of float64, see above."""
    return _gamma(n, _U64)


def _gamma(n: int, unit: float) -> float:
    return n * unit / (1 - n * unit)
