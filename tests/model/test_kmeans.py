"""Spherical k-means against a loop over rows, and what it does with centres that no row is nearest to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.model import kmeans
from swamp_dist.model.kmeans import inertia, spherical_kmeans


def _rows(count: int, dim: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1)


def _literal(rows: np.ndarray, clusters: int, seed: int, iterations: int) -> tuple[np.ndarray, int, int]:
    """Centres, iterations and moved centres, row by row."""
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:clusters]
    centres, owner, moved = rows[drawn.numpy()].copy(), None, 0
    for done in range(iterations):
        nearest = [int(np.argmax([row @ c for c in centres])) for row in rows]
        if nearest == owner:
            return centres, done, moved
        owner = nearest
        cosines = [rows[i] @ centres[k] for i, k in enumerate(owner)]
        farthest = iter(np.argsort(cosines, kind="stable"))
        for k in range(clusters):
            mine = [rows[i] for i, other in enumerate(owner) if other == k]
            if mine:
                centres[k] = np.sum(mine, axis=0) / np.linalg.norm(np.sum(mine, axis=0))
            else:
                centres[k], moved = rows[next(farthest)], moved + 1
    return centres, iterations, moved


@pytest.mark.parametrize(
    ("count", "clusters", "distinct"), [(60, 7, 60), (40, 40, 40), (50, 12, 20), (9, 1, 9)]
)
@pytest.mark.parametrize("iterations", [1, 4, 100])
def test_it_is_the_algorithm_row_by_row(
    monkeypatch: pytest.MonkeyPatch, count: int, clusters: int, distinct: int, iterations: int
) -> None:
    """Also with rows that come several times, so that centres coincide and one of them has no row."""
    monkeypatch.setattr(kmeans, "_BLOCK", 11)
    rows = _rows(count)[torch.arange(count) % distinct]
    found = spherical_kmeans(rows, clusters, seed=3, iterations=iterations)
    centres, done, moved = _literal(rows.numpy(), clusters, 3, iterations)
    torch.testing.assert_close(found.centres, torch.from_numpy(centres), rtol=0, atol=1e-12)
    assert (found.iterations, found.refilled) == (done, moved)
    expected = np.mean([1 - max(row @ c for c in centres) for row in rows.numpy()])
    assert found.inertia == pytest.approx(expected, abs=1e-12)
    assert (distinct < count) <= (moved > 0)


def test_it_finds_directions_that_are_there_and_ends() -> None:
    centres = functional.normalize(torch.eye(6, dtype=torch.float64)[:4], dim=1)
    rows = functional.normalize(centres.repeat(30, 1) + 0.05 * _rows(120, 6), dim=1)
    best = min((spherical_kmeans(rows, 4, seed, 50) for seed in range(8)), key=lambda found: found.inertia)
    assert best.iterations < 50
    assert float((best.centres @ centres.t()).amax(dim=0).min()) > 0.99
    assert best.inertia < inertia(rows, _rows(4, 6, seed=9)) / 10
    assert torch.equal(
        spherical_kmeans(rows, 4, 2, 50).centres, spherical_kmeans(rows.clone(), 4, 2, 50).centres
    )


def test_what_it_cannot_cluster_is_refused() -> None:
    with pytest.raises(ValueError, match="3 rows cannot start 4 clusters"):
        spherical_kmeans(_rows(3), 4, 0, 5)
    rows = _rows(6)
    rows[2, 1] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        spherical_kmeans(rows, 4, 0, 5)
