from __future__ import annotations

import numpy as np
import pytest

from swamp_dist.prototypes.super_clusters import default_groups, super_clusters
from tests.prototypes.made import unit


def literal(vectors: np.ndarray, groups: int) -> list[list[int]]:
    """Join the two groups of the highest mean cosine until `groups` are left."""
    rows = vectors.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines, parts = rows @ rows.T, [[i] for i in range(len(rows))]
    while len(parts) > groups:
        pairs = [(i, j) for i in range(len(parts)) for j in range(i)]
        i, j = max(pairs, key=lambda pair: cosines[np.ix_(parts[pair[0]], parts[pair[1]])].mean())
        parts[j] += parts.pop(i)
    return sorted((sorted(part) for part in parts), key=lambda part: (-len(part), part))


@pytest.mark.parametrize("groups", [1, 3, 5, 14])
def test_groups_are_those_of_average_linkage(groups: int) -> None:
    vectors = unit(14, 4, 3).numpy() * np.arange(1, 15, dtype=np.float32)[:, None]
    found = super_clusters(vectors, range(14), groups)
    assert [list(group.members) for group in found] == literal(vectors, groups)
    rows = unit(14, 4, 3).numpy().astype(np.float64)
    for group in found:
        members = rows[list(group.members)]
        of_pairs = [float(members[i] @ members[j]) for i in range(len(members)) for j in range(i)]
        expected = np.mean(of_pairs) if of_pairs else None
        assert group.mean_cosine == (None if expected is None else pytest.approx(expected, abs=1e-6))


def test_prototypes_without_items_take_no_part() -> None:
    vectors = unit(8, 4, 0).numpy()
    found = super_clusters(vectors, [6, 1, 4], 2)
    assert sorted(number for group in found for number in group.members) == [1, 4, 6]
    assert [group.members for group in super_clusters(vectors, [5], 3)] == [(5,)]


def test_there_are_about_as_many_groups_as_members_of_one() -> None:
    assert [default_groups(n) for n in (1, 2, 100, 1000)] == [1, 1, 10, 32]
