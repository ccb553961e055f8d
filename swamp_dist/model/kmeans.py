"""Spherical k-means (Dhillon and Modha 2001): rows of unit length around K directions, by cosine.

Shape letters: n rows, D embedding size, K centres. Everything is float64, and no sum is made in an order that
a device chooses: the same rows give the same bits on one kind of device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 4096
"""Rows compared with all centres at a time."""


@dataclass(frozen=True)
class Clusters:
    """Where k-means has ended."""

    centres: Tensor
    """(K, D) float64, unit length."""
    iterations: int
    refilled: int
    """How often a centre without a row was set to one of the rows farthest from their own."""
    inertia: float
    """Mean of 1 - cosine between a row and its nearest centre."""


def spherical_kmeans(rows: Tensor, clusters: int, seed: int, iterations: int) -> Clusters:
    """Directions that rows (n, D) gather around, from `clusters` of them drawn by `seed`.

    It stops when no row changes its centre, or after `iterations`. A centre that no row is nearest to is
    moved to the row that is farthest from its own centre; of several, each takes the next.

    Raises:
        ValueError: fewer rows than clusters, or a row that is not finite.
    """
    if len(rows) < clusters:
        raise ValueError(f"{len(rows)} rows cannot start {clusters} clusters")
    x = functional.normalize(rows.double(), dim=1)
    if not bool(x.isfinite().all()):
        raise ValueError("a row is not finite")
    drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:clusters]
    centres, owner = x[drawn.to(x.device)], torch.full((len(x),), -1, device=x.device)
    done = refilled = 0
    while done < iterations:
        cosine, nearest = _nearest(x, centres)
        if torch.equal(nearest, owner):
            break
        owner, done = nearest, done + 1
        centres, empty = _means(x, owner, cosine, clusters)
        refilled += empty
    return Clusters(centres, done, refilled, inertia(x, centres))


def inertia(rows: Tensor, centres: Tensor) -> float:
    """Mean of 1 - cosine between rows (n, D) and the nearest of centres (K, D)."""
    x, c = functional.normalize(rows.double(), dim=1), functional.normalize(centres.double(), dim=1)
    return 1 - float(_nearest(x, c)[0].mean())


def _nearest(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) cosine with the nearest centre, and which; of equals, the first."""
    found = [(block @ centres.t()).max(dim=1) for block in torch.split(x, _BLOCK)]
    return torch.cat([values for values, _ in found]), torch.cat([indices for _, indices in found])


def _means(x: Tensor, owner: Tensor, cosine: Tensor, clusters: int) -> tuple[Tensor, int]:
    """(K, D) directions of the sums of the rows of every centre, and how many had none.

    Sums as products with an indicator matrix: adding by index would leave their order to the device.
    """
    sums = x.new_zeros(clusters, x.shape[1])
    for block, of in zip(torch.split(x, _BLOCK), torch.split(owner, _BLOCK), strict=True):
        sums += functional.one_hot(of, clusters).to(x.dtype).t() @ block
    empty = (sums.norm(dim=1) < 1e-9).nonzero()[:, 0]  # also where opposite rows cancel
    sums[empty] = x[cosine.argsort(stable=True)[: len(empty)]]
    return functional.normalize(sums, dim=1), len(empty)
