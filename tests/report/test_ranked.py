"""Which queries are shown, against a plain loop over all pairs."""

from __future__ import annotations

import pytest
import torch

from swamp_dist.report.ranked import TOP, choose


def naive_rank(row: list[float], right: list[bool]) -> int:
    best = max(score for score, is_right in zip(row, right, strict=True) if is_right)
    return 1 + sum(score >= best and not is_right for score, is_right in zip(row, right, strict=True))


@pytest.mark.parametrize("ties", [False, True])
def test_ranks_are_those_of_a_loop_and_ties_stand_before_the_right_item(ties: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(300, 40, generator=generator)
    scores = scores.round() if ties else scores
    groups, gallery = torch.arange(300) % 20, torch.arange(40) % 20
    keys = [f"key{i}" for i in range(300)]
    found = choose(scores, groups, gallery, 300, keys)
    right = (groups[:, None] == gallery[None]).tolist()
    for each in found.drawn:
        assert each.rank == naive_rank(scores[each.query].tolist(), right[each.query])
        values = [hit.score for hit in each.top]
        assert values == sorted(scores[each.query].tolist(), reverse=True)[:TOP]
        assert [hit.is_right for hit in each.top] == [right[each.query][hit.item] for hit in each.top]
        if each.rank > TOP:
            assert not any(hit.is_right for hit in each.top)
    assert [each.rank for each in found.best] == sorted(each.rank for each in found.best)
    assert [each.rank for each in found.worst] == sorted((e.rank for e in found.worst), reverse=True)
    assert sorted(each.query for each in found.drawn) == list(range(300))
    again = choose(scores, groups, gallery, 4, keys)
    assert again.drawn == found.drawn[:4]
    assert again.best == found.best[:4]


def test_queries_without_a_right_item_and_scores_that_are_no_numbers_are_no_best_ones() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.5, 0.9], [float("nan"), 0.1]])
    found = choose(scores, torch.tensor([7, 1, 0]), torch.tensor([0, 1]), 3, ["x", "y", "z"])
    assert [each.query for each in found.best] == [1, 2]
    assert [each.rank for each in found.worst] == [2, 1]
