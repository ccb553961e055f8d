"""Counts by bounds against a float64 product of everything: the same integers on every kind of input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swamp_dist.evaluate import counts
from swamp_dist.evaluate.counts import count_ahead
from swamp_dist.evaluate.gallery import open_gallery
from swamp_dist.evaluate.ranking import Cutoffs, rank_tile
from tests.evaluate.dense_ranks import dense_counts, dense_precisions, dense_scores

Case = tuple[Tensor, Tensor, Tensor, Tensor]
CUTOFFS = Cutoffs((1, 3, 50), (1, 2, 40))
DIMS = (1, 2, 3, 8, 63, 257, 700)


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def signs(rows: Tensor) -> Tensor:
    """Entries +-1 scaled by a power of two: many exact ties, sums that cancel to 0."""
    return rows.sign() * 2.0 ** -round(math.log2(rows.shape[1]) / 2)


def with_row(rows: Tensor, value: float) -> Tensor:
    changed = rows.clone()
    changed[::3, 0] = value
    return changed


KINDS = {
    "unit rows": unit,
    "one point": lambda rows: unit(rows[:1]).expand_as(rows).clone(),
    "near one point": lambda rows: unit(unit(rows[:1]) + 1e-7 * rows),
    "duplicates": lambda rows: unit(rows)[torch.arange(len(rows)) // 3],
    "signs": signs,
    "small integers": lambda rows: (2 * rows).round(),
    "one hot": lambda rows: torch.eye(rows.shape[1])[rows.argmax(dim=1)],
    "zero rows": lambda rows: unit(rows) * (torch.arange(len(rows)) % 2)[:, None],
    "all zero": torch.zeros_like,
    "long rows": lambda rows: rows * 10.0 ** (torch.arange(len(rows)) % 5)[:, None],
    "beyond float32": lambda rows: unit(rows) * 1e25,
    "below float32": lambda rows: unit(rows) * 1e-25,
    "NaN": lambda rows: with_row(unit(rows), math.nan),
    "all NaN": lambda rows: rows * math.nan,
    "infinite": lambda rows: with_row(unit(rows), math.inf),
    "minus infinite": lambda rows: with_row(unit(rows), -math.inf),
}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n, m, dim = draw(st.integers(1, 40)), draw(st.integers(1, 60)), draw(st.sampled_from(DIMS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    common = torch.randn(max(n, m), dim, generator=generator)
    noise = draw(st.sampled_from([0.0, 1e-7, 0.5, 3.0]))
    sides = [common[:k] + noise * torch.randn(k, dim, generator=generator) for k in (n, m)]
    queries = KINDS[draw(st.sampled_from(sorted(KINDS)))](sides[0])
    gallery = KINDS[draw(st.sampled_from(sorted(KINDS)))](sides[1])
    groups = torch.randint(0, draw(st.sampled_from([1, 3, m])), (m,), generator=generator)
    return queries, groups[torch.randint(0, m, (n,), generator=generator)], gallery, groups


def expected_counts(case: Case) -> Tensor:
    queries, groups, gallery, gallery_groups = case
    return dense_counts(dense_scores(queries, gallery), groups[:, None] == gallery_groups)


@settings(max_examples=400, deadline=None)
@given(cases(), st.sampled_from([0, 32, 10**9]))
def test_counts_equal_those_of_a_float64_product(case: Case, dense: int) -> None:
    queries, groups, gallery, gallery_groups = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counts, "DENSE", dense)  # which way is taken changes nothing
        found = count_ahead(queries, groups, open_gallery(gallery, gallery_groups))
    assert torch.equal(found, expected_counts(case))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_precisions_equal_those_of_a_full_sort(case: Case) -> None:
    queries, groups, gallery, gallery_groups = case
    found = rank_tile(queries, groups, open_gallery(gallery, gallery_groups), CUTOFFS)
    scores, relevant = dense_scores(queries, gallery), groups[:, None] == gallery_groups
    assert torch.equal(found[:, :2].long(), dense_counts(scores, relevant))
    torch.testing.assert_close(found[:, 2:], dense_precisions(scores, relevant, CUTOFFS), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["unit rows", "near one point", "duplicates", "signs"])
@pytest.mark.parametrize("tile", [1, 7, 300])
def test_no_tile_of_queries_changes_a_count(kind: str, tile: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 515, generator=generator)
    queries, gallery = KINDS[kind](rows), KINDS[kind](rows + torch.randn(300, 515, generator=generator))
    groups = torch.arange(300)
    items = open_gallery(gallery, groups)
    found = [count_ahead(queries[i : i + tile], groups[i : i + tile], items) for i in range(0, 300, tile)]
    assert torch.equal(torch.cat(found), expected_counts((queries, groups, gallery, groups)))


def test_float64_rows_are_compared_as_they_are() -> None:
    queries = torch.tensor([[1.0, 1e-12]], dtype=torch.float64)
    gallery = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    found = count_ahead(queries, torch.tensor([0]), open_gallery(gallery, torch.arange(2)))
    assert found.tolist() == [[1, 0]]


def test_a_float32_product_leaves_few_scores_to_recompute(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = unit(torch.randn(500, 1024, generator=generator))
    gallery = unit(0.2 * rows + unit(torch.randn(500, 1024, generator=generator)))
    asked = []
    exact = counts.pair_scores
    monkeypatch.setattr(counts, "pair_scores", lambda *args: asked.append(len(args[2])) or exact(*args))
    monkeypatch.setattr(counts, "float64_intervals", None)  # a float64 product would fail
    groups = torch.arange(500)
    count_ahead(rows, groups, open_gallery(gallery, groups))
    assert sum(asked) < 50  # of 250,000
