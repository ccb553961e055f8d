"""Distances as scores: against the literal formula in float64, in ties and where digits cancel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from swamp_dist.config import EvaluateSettings
from swamp_dist.distributed import World, alone
from swamp_dist.evaluate import distances
from swamp_dist.evaluate.distances import distance_scores, pair_distances
from swamp_dist.evaluate.embedding import Embedded
from swamp_dist.evaluate.retrieval import evaluate_embedded
from swamp_dist.records import EvaluationResult
from tests.ranks import run_on_ranks

SETTINGS = EvaluateSettings(
    split="test", gallery="photos", relevance=("class",), distance="euclidean", precision_at=(3, 20)
)


def rows(count: int, dim: int, seed: int, scale: float = 1.0, offset: float = 0.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return offset + scale * torch.randn(count, dim, generator=random)


CASES = {
    "plain": lambda: (rows(40, 33, 0), rows(70, 33, 1)),
    "far from the origin": lambda: (rows(40, 8, 0, 1e-3, 50.0), rows(600, 8, 1, 1e-3, 50.0)),
    "one dimension": lambda: (rows(9, 1, 0), rows(30, 1, 1)),
    "collapsed": lambda: (torch.full((5, 7), 0.3), torch.full((12, 7), 0.3)),
    "of all sizes": lambda: (rows(30, 5, 0) * 10 ** rows(30, 1, 2, 6.0), rows(30, 5, 1) * 1e-20),
    "its own gallery, of two tiles": lambda: (rows(700, 16, 0)[::9], rows(700, 16, 0)),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_are_the_rounded_distances(case: str) -> None:
    queries, gallery = CASES[case]()
    found = distance_scores(queries, gallery)
    exact = queries.numpy().astype(np.longdouble)[:, None] - gallery.numpy().astype(np.longdouble)
    expected = -np.sqrt((exact**2).sum(axis=2))
    with np.errstate(over="ignore"):
        assert found.numpy() == pytest.approx(expected.astype(np.float32), rel=2.0**-23, abs=0)
    query, item = torch.cartesian_prod(torch.arange(len(queries)), torch.arange(len(gallery))).unbind(1)
    by_pairs = pair_distances(queries, gallery, query, item).view_as(found)
    assert torch.equal(found, by_pairs)  # bit for bit the definition


def test_few_pairs_are_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def count(a: Tensor, b: Tensor, query: Tensor, item: Tensor) -> Tensor:
        counted.append(len(query))
        return pair_distances(a, b, query, item)

    monkeypatch.setattr(distances, "pair_distances", count)
    distance_scores(rows(200, 64, 0, offset=3.0), rows(900, 64, 1, offset=3.0))
    assert sum(counted) < 20  # of 180,000


def test_equal_rows_tie_wherever_they_stand() -> None:
    queries, gallery = rows(60, 48, 0), rows(40, 48, 1).repeat(30, 1)
    found = distance_scores(queries, gallery).view(60, 30, 40)
    assert torch.equal(found, found[:, :1].expand_as(found))


def test_what_is_not_finite_comes_last() -> None:
    gallery = rows(4, 3, 1)
    gallery[1, 0], gallery[2, 2] = torch.nan, torch.inf
    queries = torch.cat([rows(1, 3, 0), torch.full((1, 3), torch.inf)])
    found = distance_scores(queries, gallery)
    assert found[0].isfinite().tolist() == [True, False, False, True]
    assert (found[1] == -torch.inf).all()


def sides() -> tuple[Embedded, Embedded]:
    """Sketches and photos of seven classes; some photos are equal to others of another class."""
    random = torch.Generator().manual_seed(5)
    centres = 3 * torch.randn(7, 6, generator=random)
    made = []
    for count in (45, 700):
        label = torch.arange(count) % 7
        points = centres[label] + 2 * torch.randn(count, 6, generator=random)
        points[10:14] = points[3:7]
        made.append(Embedded(points, torch.arange(count), label))
    return made[0], made[1]


def literal(query: Embedded, gallery: Embedded, cutoff: int) -> tuple[float, float, float]:
    """mAP, P@k and R@1 of a sort by float64 distances, the irrelevant first among equals."""
    figures = []
    for row, label in zip(query.rows.double(), query.label, strict=True):
        distance = (gallery.rows.double() - row).square().sum(dim=1).sqrt().float().numpy()
        relevant = (gallery.label == label).numpy()
        hits = relevant[np.lexsort((relevant, distance))]
        places = np.flatnonzero(hits) + 1
        figures.append(
            (np.mean(np.arange(1, len(places) + 1) / places), hits[:cutoff].mean(), places[0] == 1)
        )
    found: tuple[float, float, float] = tuple((100 * np.mean(figures, axis=0)).tolist())
    return found


def _evaluate(world: World) -> EvaluationResult:
    return evaluate_embedded(*sides(), SETTINGS, "sketch", "photo", world)


def test_figures_are_those_of_a_literal_sort_on_any_number_of_ranks() -> None:
    a, b = sides()
    found = _evaluate(alone())
    for key, query, gallery in (("a_to_b", a, b), ("b_to_a", b, a)):
        metrics = found.metrics[f"class/{key}"]
        assert (metrics.map, metrics.precision_at[20], metrics.r_at_1) == pytest.approx(
            literal(query, gallery, 20)
        )
        assert (metrics.num_queries, metrics.num_items) == (len(query.rows), len(gallery.rows))
    assert found.metrics["class/a_to_b"].direction == "sketch->photo"
    assert found.gallery == "photos"
    assert run_on_ranks(_evaluate, 3, how="threads") == [found] * 3


def test_cosines_and_distances_of_unit_rows_agree() -> None:
    a, b = (Embedded(torch.nn.functional.normalize(x.rows, dim=1), x.entry, x.label) for x in sides())
    by: dict[str, Callable[[str], float]] = {}
    for distance in ("cosine", "euclidean"):
        settings = SETTINGS.model_copy(update={"distance": distance})
        result = evaluate_embedded(a, b, settings, "sketch", "photo", alone())
        by[distance] = result.metrics["class/a_to_b"].map
    assert by["cosine"] == pytest.approx(by["euclidean"], abs=1e-6)
