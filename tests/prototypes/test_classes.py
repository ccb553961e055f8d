from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.prototypes.classes import class_counts, normalized_mutual_information, purities, purity
from tests.prototypes.made import assigned

LABELS = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
CLUSTERS = [0, 0, 1, 1, 1, 3, 3, 3, 3, 0]


def counts_of(clusters: list[int], labels: list[int]) -> np.ndarray:
    side = assigned(clusters, range(len(clusters)), labels)
    return class_counts((side,), max(clusters) + 1, max(labels, default=0) + 1)


def test_items_without_a_class_count_nowhere() -> None:
    one, other = assigned([0, 2, 2], [0, 1, 2], [1, -1, 0]), assigned([0], [0], [1])
    assert class_counts((one, other), 3, 2).tolist() == [[0, 2], [0, 0], [1, 0]]
    assert math.isnan(purity(np.zeros((2, 2), dtype=np.int64)))
    assert math.isnan(normalized_mutual_information(np.zeros((2, 2), dtype=np.int64)))


def test_figures_of_a_small_table() -> None:
    """NMI as scikit-learn 1.9.1 gives it for these lists."""
    counts = counts_of(CLUSTERS, LABELS)
    assert counts.tolist() == [[2, 0, 1], [1, 2, 0], [0, 0, 0], [0, 1, 3]]
    assert purity(counts) == pytest.approx(7 / 10)
    np.testing.assert_allclose(purities(counts), [2 / 3, 2 / 3, np.nan, 3 / 4])
    assert normalized_mutual_information(counts) == pytest.approx(0.44270128334605, abs=1e-12)


@pytest.mark.parametrize(
    ("clusters", "labels", "expected"),
    [([0, 0], [0, 0], 1), ([0, 1], [0, 0], 0), ([0, 0], [0, 1], 0), ([2, 0, 2], [1, 0, 1], 1)],
)
def test_limits(clusters: list[int], labels: list[int], expected: float) -> None:
    assert normalized_mutual_information(counts_of(clusters, labels)) == pytest.approx(expected)


@pytest.mark.slow  # the import takes seconds
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40))
def test_nmi_is_scikit_learns(items: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    clusters, labels = map(list, zip(*items, strict=True))
    expected = metrics.normalized_mutual_info_score(labels, clusters)
    assert normalized_mutual_information(counts_of(clusters, labels)) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40))
def test_nmi_is_that_of_its_definition(items: list[tuple[int, int]]) -> None:
    """Sums over items, without a table: 2 I / (H + H)."""
    clusters, labels = map(list, zip(*items, strict=True))
    n = len(items)

    def p(values: list[int], value: int) -> float:
        return values.count(value) / n

    def entropy(values: list[int]) -> float:
        return -sum(math.log(p(values, v)) for v in values) / n

    joint = {pair: items.count(pair) / n for pair in items}
    mutual = sum(math.log(joint[c, y] / (p(clusters, c) * p(labels, y))) for c, y in items) / n
    total = entropy(clusters) + entropy(labels)
    expected = 2 * mutual / total if total else 1.0
    counts = counts_of(clusters, labels)
    assert normalized_mutual_information(counts) == pytest.approx(expected, abs=1e-9)
    largest = [max(labels[i] for i in range(n) if clusters[i] == c) for c in clusters]
    assert purity(counts) >= sum(x == y for x, y in zip(largest, labels, strict=True)) / n - 1e-12
