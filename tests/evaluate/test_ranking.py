"""Ranks and precisions against naive float64 references that sort the whole gallery."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swamp_dist.evaluate import ranking
from swamp_dist.evaluate.gallery import RelevantPairs, open_gallery

CUTOFFS = ranking.Cutoffs((1, 3, 50), (1, 2, 40))


def naive_order(scores: list[float], relevant: list[bool]) -> list[bool]:
    """Relevance in ranked order: score descending, irrelevant first among equals, NaN last."""
    keyed = [(math.inf if math.isnan(s) else -s, r) for s, r in zip(scores, relevant, strict=True)]
    return [r for _, r in sorted(keyed)]


def naive_average_precision(order: list[bool], k: int) -> float:
    total = 0.0
    for i in range(min(k, len(order))):
        if order[i]:
            total += sum(order[: i + 1]) / (i + 1)
    return total / max(1, min(k, sum(order)))


def naive_over_hits(order: list[bool], k: int) -> float:
    total, hits = 0.0, 0
    for i, is_hit in enumerate(order[:k]):
        if is_hit:
            hits += 1
            total += hits / (i + 1)
    return total / hits if hits else 0.0


def average_precision_by_thresholds(scores: list[float], relevant: list[bool]) -> float:
    """scikit-learn's average_precision_score: the sum over distinct scores, the highest first, of the step of
    recall times the precision among all items of at least this score; 0 without a positive."""
    total, found = 0.0, 0
    for level in sorted(set(scores), reverse=True):
        above = [r for s, r in zip(scores, relevant, strict=True) if s >= level]
        total += (sum(above) - found) * sum(above) / len(above)
        found = sum(above)
    return total / found if found else 0.0


def pairs_of(relevant: Tensor) -> RelevantPairs:
    """The pairs of a mask (t, m)."""
    query, item = relevant.nonzero().unbind(1)
    return RelevantPairs(query, item, relevant.sum(dim=1), relevant.cumsum(dim=1)[query, item] - 1)


def raw_of(scores: Tensor, relevant: Tensor) -> Tensor:
    """Rows of `rank_tile` from given scores."""
    clean = scores.float().nan_to_num(nan=-torch.inf)
    ranks, places = ranking.places_of_relevant(clean, pairs_of(relevant))
    return torch.cat([ranks.double(), ranking.precisions(places, CUTOFFS)], dim=1)


@st.composite
def ranked_cases(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    n, m = draw(st.integers(1, 37)), draw(st.integers(1, 37))
    seed, levels = draw(st.integers(0, 2**16)), draw(st.sampled_from([1, 2, 5, 1000]))
    rng = np.random.default_rng(seed)
    scores = rng.integers(-levels, levels + 1, (n, m)) / 8
    scores[rng.random((n, m)) < draw(st.sampled_from([0.0, 0.2]))] = -0.0
    relevant = rng.random((n, m)) < 0.3
    if not draw(st.booleans()):  # else some queries may have no relevant item
        relevant[np.arange(n), rng.integers(0, m, n)] = True
    return torch.from_numpy(scores), torch.from_numpy(relevant)


@settings(max_examples=60, deadline=None)
@given(ranked_cases())
def test_ranks_and_precisions_equal_a_full_sort(case: tuple[Tensor, Tensor]) -> None:
    scores, relevant = case
    raw = raw_of(scores, relevant)
    for s, r, found in zip(scores.tolist(), relevant.tolist(), raw.tolist(), strict=True):
        order = naive_order(s, r)
        assert found[0] + found[1] == (order.index(True) if any(r) else len(r))
        expected = [naive_average_precision(order, len(order))]
        expected += [sum(order[:k]) / k for k in CUTOFFS.first]
        expected += [naive_average_precision(order, k) for k in CUTOFFS.first]
        expected += [naive_over_hits(order, k) for k in CUTOFFS.first]
        expected += [float(n <= len(order) and order[n - 1]) for n in CUTOFFS.place]
        assert found[2:] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(ranked_cases())
def test_average_precision_is_scikit_learns_up_to_tied_relevant_items(case: tuple[Tensor, Tensor]) -> None:
    for scores, relevant, row in zip(*(x.tolist() for x in case), raw_of(*case).tolist(), strict=True):
        theirs, ours = average_precision_by_thresholds(scores, relevant), row[2]
        hits = [s for s, r in zip(scores, relevant, strict=True) if r]
        if len(set(hits)) == len(hits):  # irrelevant items may tie with them
            assert ours == pytest.approx(theirs, abs=1e-12)
        assert ours <= theirs + 1e-12


# average_precision_score of scikit-learn 1.9.1 on these relevances and scores.
SCIKIT_LEARN = (
    ([1, 0, 1], [0.5, 0.5, 0.5], 0.6666666666666666),
    ([0, 1, 0, 0, 1], [0.9, 0.8, 0.7, 0.6, 0.5], 0.45),
    ([1, 0, 1, 0, 1, 0], [3.0, 3.0, 2.0, 2.0, 1.0, 1.0], 0.5),
    ([0, 0, 0], [1.0, 2.0, 3.0], 0.0),
    ([1, 1, 0, 0, 1, 1], [2.0, 2.0, 2.0, 1.0, 1.0, 0.0], 0.6499999999999999),
    ([1, 1, 1, 1, 1, 1, 1, 0, 0], [8.0, 0.0, 1.0, 5.0, 4.0, 2.0, 3.0, 7.0, 6.0], 0.715532879818594),
)


@settings(max_examples=40, deadline=None)
@given(ranked_cases())
def test_the_reference_is_scikit_learn(case: tuple[Tensor, Tensor]) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed: the extra `dev`")
    for scores, relevant in zip(*(x.tolist() for x in case), strict=True):
        if any(relevant):  # without one it warns, and gives 0
            theirs = metrics.average_precision_score(relevant, scores)
            assert average_precision_by_thresholds(scores, relevant) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(("relevant", "scores", "theirs"), SCIKIT_LEARN)
def test_scikit_learns_own_numbers(relevant: list[int], scores: list[float], theirs: float) -> None:
    hits = [s for s, r in zip(scores, relevant, strict=True) if r]
    is_relevant = [bool(r) for r in relevant]
    assert average_precision_by_thresholds(scores, is_relevant) == pytest.approx(theirs, abs=1e-12)
    ours = float(raw_of(torch.tensor([scores]), torch.tensor([is_relevant]))[0, 2])
    assert ours == pytest.approx(theirs, abs=1e-12) if len(set(hits)) == len(hits) else ours < theirs


def test_definitions_of_map_at_k_differ_as_the_published_table_does() -> None:
    # One hit, at place 1, of three relevant items, k = 2: perfect over hits, half over min(R, k), P@2 half.
    places = torch.tensor([[1, 5, 6]])
    found = ranking.precisions(places, ranking.Cutoffs((2,), (1, 2, 3)))
    assert found.tolist() == [[pytest.approx((1 + 2 / 5 + 3 / 6) / 3), 0.5, 0.5, 1.0, 1.0, 0.0, 0.0]]


def test_a_query_without_relevant_items_ranks_behind_the_gallery_and_scores_zero() -> None:
    rows, groups = torch.eye(4)[:3], torch.tensor([0, 1, 2])
    queries, asked = torch.eye(4), torch.tensor([0, 9, 2, 9])
    gallery = open_gallery(rows, groups)
    for cutoffs in (None, CUTOFFS):
        raw = ranking.rank_tile(queries, asked, gallery, cutoffs)
        assert (raw[:, 0] + raw[:, 1]).tolist() == [0, 3, 0, 3]
    assert raw[1].tolist() == [3, 0, *[0.0] * CUTOFFS.columns]
    found = ranking.figures(raw, 3, "pessimistic", CUTOFFS)
    assert (found.r_at_1, found.r_at_10, found.median_rank, found.map) == (50, 50, 2.5, 50)
    lonely = ranking.rank_tile(queries[1:2], asked[1:2], gallery, CUTOFFS)
    assert lonely.tolist() == [[3, 0, *[0.0] * CUTOFFS.columns]]


@settings(max_examples=40, deadline=None)
@given(ranked_cases())
def test_recalls_and_median_equal_those_of_the_ranks(case: tuple[Tensor, Tensor]) -> None:
    scores, relevant = case
    figures = ranking.figures(raw_of(scores, relevant), scores.shape[1], "pessimistic", CUTOFFS)
    pairs = zip(scores.tolist(), relevant.tolist(), strict=True)
    ranks = np.array([[*naive_order(s, r), True].index(True) + 1 for s, r in pairs])
    assert figures.median_rank == np.median(ranks)
    expected = [100 * float(np.mean(ranks <= min(k, scores.shape[1]))) for k in (1, 5, 10)]
    assert [figures.r_at_1, figures.r_at_5, figures.r_at_10] == pytest.approx(expected)


def miech(scores: Tensor) -> ranking.Figures:
    n = len(scores)
    ranks, _ = ranking.places_of_relevant(scores.float(), pairs_of(torch.eye(n, dtype=torch.bool)))
    return ranking.figures(ranks.double(), n, "miech", ranking.Cutoffs())


def published_positions(scores: np.ndarray) -> np.ndarray:
    """The rule of the published evaluation: where the sorted row equals the diagonal's value."""
    ordered = np.sort(-scores, axis=1)
    return np.where(ordered - np.diag(-scores)[:, None] == 0)[1]


def test_miech_mode_counts_every_tied_place_as_the_published_examples_do() -> None:
    flat = miech(torch.zeros(4, 4))
    assert (flat.r_at_1, flat.median_rank) == (25.0, 2.5)
    tied = miech(torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1]]))
    assert tied.r_at_1 == 75.0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 37), st.integers(1, 20), st.integers(0, 2**16))
def test_miech_mode_equals_the_published_rule(n: int, levels: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, levels, (n, n)).astype(np.float64)
    places = published_positions(scores)
    found = miech(torch.from_numpy(scores))
    assert found.median_rank == np.median(places) + 1
    expected = [100 * float(np.mean(places < k)) for k in (1, 5, 10)]
    assert [found.r_at_1, found.r_at_5, found.r_at_10] == pytest.approx(expected)


@pytest.mark.parametrize("ties", ["pessimistic", "miech"])
def test_nan_ranks_last_under_any_rule_of_ties(ties: ranking.Ties) -> None:
    rows = torch.full((12, 4), torch.nan)
    groups = torch.arange(12)
    raw = ranking.rank_tile(rows, groups, open_gallery(rows, groups), None)
    figures = ranking.figures(raw, 12, ties, ranking.Cutoffs())
    assert figures == ranking.Figures(0.0, 0.0, 0.0, 12.0)


def test_one_nan_item_harms_itself_alone() -> None:
    rows = torch.eye(4)
    rows[2] = torch.nan
    raw = ranking.rank_tile(torch.eye(4), torch.arange(4), open_gallery(rows, torch.arange(4)), None)
    assert raw.sum(dim=1).tolist() == [0, 0, 3, 0]


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_a_collapsed_model_ranks_last_and_not_first(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    point = torch.nn.functional.normalize(torch.ones(1, 16), dim=1)
    rows = point + noise * torch.randn(200, 16, generator=generator)
    raw = ranking.rank_tile(
        rows[:128], torch.arange(128), open_gallery(rows, torch.arange(200)), ranking.Cutoffs((10,))
    )
    figures = ranking.figures(raw, 200, "pessimistic", ranking.Cutoffs((10,)))
    assert figures.r_at_10 <= 5.0  # chance
    assert figures.median_rank >= 100
    assert figures.map is not None
    assert figures.map < 4


def test_any_of_several_relevant_items_decides_the_rank() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
    ranks, places = ranking.places_of_relevant(scores, pairs_of(torch.tensor([[False, True, False, True]])))
    assert (ranks.tolist(), places.tolist()) == ([[1, 0]], [[2, 4]])


def test_relevant_items_are_counted_by_group() -> None:
    counts = ranking.relevant_counts(torch.tensor([0, 2, 2, 5]), torch.tensor([2, 0, 2, 2]))
    assert counts.tolist() == [1, 3, 3, 0]
