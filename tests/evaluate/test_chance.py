"""Chance figures against enumeration of every order, and against the published random rows."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from swamp_dist.evaluate import ranking
from swamp_dist.evaluate.chance import chance
from swamp_dist.evaluate.gallery import open_gallery

CUTOFFS = ranking.Cutoffs((1, 2, 4, 9), (1, 5, 7))


@pytest.mark.parametrize(("items", "row"), [(1000, (0.1, 0.5, 1.0, 500)), (3350, (0.03, 0.15, 0.3, 1675))])
def test_pair_chance_is_the_published_random_row(items: int, row: tuple[float, ...]) -> None:
    found = chance(items, torch.ones(items, dtype=torch.int64))
    assert (found.r_at_1, found.r_at_5, found.r_at_10) == pytest.approx(row[:3], abs=0.005)
    assert found.median_rank == row[3]
    assert found.map is None


@pytest.mark.parametrize("relevant", [1, 2, 3, 6])
def test_chance_is_the_mean_over_all_orders(relevant: int) -> None:
    orders = torch.tensor(sorted(set(permutations([True] * relevant + [False] * (6 - relevant)))))
    first = orders.int().argmax(dim=1).numpy() + 1
    places = torch.where(orders, torch.arange(1, 7), 7).sort(dim=1).values[:, :relevant]
    expected = 100 * ranking.precisions(places, CUTOFFS).mean(dim=0)
    found = chance(6, torch.tensor([relevant]), CUTOFFS)
    assert found.r_at_1 == pytest.approx(100 * np.mean(first <= 1))
    assert found.r_at_5 == pytest.approx(100 * np.mean(first <= 5))
    assert found.r_at_10 == pytest.approx(100)
    assert found.median_rank == np.sort(first)[(len(first) - 1) // 2]
    assert found.map is not None
    assert [found.map, *by_cutoff(found)] == pytest.approx(expected.tolist())


def by_cutoff(found: ranking.Figures) -> list[float]:
    kinds = (found.precision_at, found.map_at, found.map_at_hits, found.hit_at)
    return [value for kind in kinds for value in kind.values()]


def test_a_query_without_relevant_items_is_expected_behind_the_gallery() -> None:
    found = chance(7, torch.tensor([0]), CUTOFFS)
    assert (found.r_at_1, found.r_at_10, found.median_rank, found.map) == (0, 0, 8, 0)
    assert set(by_cutoff(found)) == {0.0}


def test_chance_averages_over_queries_with_unequal_numbers_of_relevant_items() -> None:
    both = chance(50, torch.tensor([1, 1, 1, 20]), ranking.Cutoffs((5,)))
    rare, common = (
        chance(50, torch.tensor([1]), ranking.Cutoffs((5,))),
        chance(50, torch.tensor([20]), ranking.Cutoffs((5,))),
    )
    assert both.r_at_5 == pytest.approx(0.75 * rare.r_at_5 + 0.25 * common.r_at_5)
    assert both.map_at[5] == pytest.approx(0.75 * rare.map_at[5] + 0.25 * common.map_at[5])


def test_a_random_model_scores_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 7
    rows = [torch.nn.functional.normalize(torch.randn(600, 8, generator=generator), dim=1) for _ in "ab"]
    raw = ranking.rank_tile(rows[0], labels, open_gallery(rows[1], labels), ranking.Cutoffs((10,)))
    found = ranking.figures(raw, 600, "pessimistic", ranking.Cutoffs((10,)))
    expected = chance(600, ranking.relevant_counts(labels, labels), ranking.Cutoffs((10,)))
    assert found.map == pytest.approx(expected.map, abs=0.5)
    assert found.r_at_5 == pytest.approx(expected.r_at_5, abs=8)
    assert found.precision_at[10] == pytest.approx(expected.precision_at[10], abs=3)
