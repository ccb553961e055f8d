from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.evaluate.embedding import Embedded
from swamp_dist.prototypes import assignment
from swamp_dist.prototypes.assignment import Assigned, agreement, assign, sizes
from tests.prototypes.made import assigned, unit


def embedded(rows: torch.Tensor) -> Embedded:
    return Embedded(rows, torch.arange(len(rows)), torch.full((len(rows),), -1))


@pytest.mark.parametrize("rows_at_a_time", [1, 7, 8192])
def test_items_go_to_the_prototype_of_the_highest_probability(
    rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignment, "_ROWS", rows_at_a_time)
    rows, prototypes, tau = unit(30, 5, 0), unit(9, 5, 1), 0.1
    found = assign(embedded(rows), prototypes, tau)
    scores = rows.numpy().astype(np.float64) @ prototypes.numpy().astype(np.float64).T
    p = np.exp(scores / tau) / np.exp(scores / tau).sum(axis=1, keepdims=True)
    assert found.prototype.tolist() == p.argmax(axis=1).tolist()
    np.testing.assert_allclose(found.score, scores.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.probability, p.max(axis=1), atol=1e-5)
    assert sizes(found, 9).tolist() == [int((p.argmax(axis=1) == k).sum()) for k in range(9)]


def test_of_equal_scores_the_lowest_number_wins() -> None:
    prototypes = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert assign(embedded(torch.tensor([[1.0, 0.0]])), prototypes, 0.1).prototype.tolist() == [1]


def literal_agreement(a: Assigned, b: Assigned, count: int) -> tuple[float, float, list[float]]:
    """Pair by pair, each entry worth one."""
    entries = sorted(set(a.entry.tolist()) & set(b.entry.tolist()))
    same, in_a, in_b = np.zeros(count), np.zeros(count), np.zeros(count)
    for entry in entries:
        of_a, of_b = (side.prototype[side.entry == entry].tolist() for side in (a, b))
        for x in of_a:
            for y in of_b:
                one = 1 / (len(of_a) * len(of_b))
                in_a[x] += one
                in_b[y] += one
                same[x] += one * (x == y)
    half = (in_a + in_b) / 2
    chance = float((in_a / len(entries)) @ (in_b / len(entries)))
    by = [float(s / h) if h else float("nan") for s, h in zip(same, half, strict=True)]
    return float(same.sum() / len(entries)), chance, by


@st.composite
def two_sides(draw: st.DrawFn) -> tuple[Assigned, Assigned]:
    def side() -> Assigned:
        counts = draw(st.lists(st.integers(0, 3), min_size=4, max_size=4))
        entry = [e for e, n in enumerate(counts) for _ in range(n)]
        return assigned([draw(st.integers(0, 4)) for _ in entry], entry)

    return side(), side()


@given(two_sides())
def test_agreement_is_that_of_a_count_pair_by_pair(sides: tuple[Assigned, Assigned]) -> None:
    a, b = sides
    if not set(a.entry.tolist()) & set(b.entry.tolist()):
        with pytest.raises(ValueError, match="no entry has items of both"):
            agreement(a, b, 5)
        return
    found = agreement(a, b, 5)
    share, chance, by_prototype = literal_agreement(a, b, 5)
    assert found.share == pytest.approx(share, abs=1e-12)
    assert found.chance == pytest.approx(chance, abs=1e-12)
    np.testing.assert_allclose(found.by_prototype, by_prototype, atol=1e-12)


def test_several_texts_of_an_item_share_its_weight() -> None:
    pictures = assigned([0, 1, 2], [0, 1, 2])
    texts = assigned([0, 0, 1, 2, 0], [0, 0, 1, 2, 2])
    found = agreement(pictures, texts, 4)
    assert found.share == pytest.approx((1 + 1 + 0.5) / 3)
    assert found.chance == pytest.approx((1 * 1.5 + 1 * 1 + 1 * 0.5) / 9)
    np.testing.assert_allclose(found.by_prototype, [1 / 1.25, 1, 0.5 / 0.75, np.nan])
    masses = np.array([1.25, 1, 0.75])
    assert found.by_prototype[:3] @ masses / masses.sum() == pytest.approx(found.share)
