"""Sets of a split without padding, and the scores of all pairs."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.config import CrossAttentionSettings, EvaluateSettings
from swamp_dist.distributed import World, alone
from swamp_dist.evaluate import set_rows as module
from swamp_dist.evaluate.embedding import Embedded
from swamp_dist.evaluate.retrieval import evaluate_embedded, evaluate_scores
from swamp_dist.evaluate.scored import Scored
from swamp_dist.evaluate.set_rows import join_set_rows, score_all, set_rows
from swamp_dist.model.cross_attention import pair_scores
from swamp_dist.records import Sets
from tests.evaluate.test_retrieval import BOTH, random_sides
from tests.ranks import run_on_ranks

SCORE = partial(pair_scores, rules=CrossAttentionSettings(queries="a"))
LENGTHS = st.lists(st.integers(1, 5), min_size=1, max_size=6)


def drawn(lengths: list[int], seed: int = 0) -> Sets:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Sets(torch.randn(*mask.shape, 3, generator=generator) * mask[:, :, None], mask)


@given(LENGTHS, LENGTHS, st.data())
def test_what_is_packed_comes_out_again(first: list[int], second: list[int], data: st.DataObject) -> None:
    parts = [drawn(first), drawn(second, 1)]
    rows, lengths = join_set_rows([set_rows(part) for part in parts]), first + second
    expected = [v[m] for part in parts for v, m in zip(*part, strict=True)]
    index = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8))
    taken = rows.take(torch.tensor(index))
    start = data.draw(st.integers(0, len(index) - 1))
    padded = taken.padded(slice(start, len(index)))
    assert len(taken) == len(index)
    for values, mask, i in zip(*padded, index[start:], strict=True):
        assert torch.equal(values[mask], expected[i])
        assert not values[~mask].any()


def scored(world: World) -> list[list[float]]:
    module.TILE = 3
    a, b = set_rows(drawn([3, 1, 4, 1, 5, 2, 2])), set_rows(drawn([2, 3, 1, 1], 1))
    found: list[list[float]] = score_all(a, b, SCORE, world).tolist()
    return found


def test_tiles_and_ranks_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", 3)
    expected = scored(alone())
    whole = SCORE(drawn([3, 1, 4, 1, 5, 2, 2]), drawn([2, 3, 1, 1], 1))
    torch.testing.assert_close(torch.tensor(expected), whole)
    for one in run_on_ranks(scored, 2):
        assert one == expected


def evaluated(world: World) -> str:
    a, b = random_sides(140, several=True)
    scores = (a.rows.double() @ b.rows.double().t()).float()
    return str(evaluate_scores(Scored(scores, a, b, ()), BOTH, "x", "y", world))


@pytest.mark.parametrize("levels", [None, 1])
def test_scores_rank_as_embeddings_do(levels: int | None) -> None:
    """Both directions, several captions per entry, classes, ties."""
    a, b = random_sides(140, several=True, levels=levels)
    scores = (a.rows.double() @ b.rows.double().t()).float()
    expected = evaluate_embedded(a, b, BOTH, "x", "y", alone())
    assert evaluate_scores(Scored(scores, a, b, ()), BOTH, "x", "y", alone()) == expected


def test_ranks_do_not_change_the_figures() -> None:
    assert run_on_ranks(evaluated, 2) == [evaluated(alone())] * 2


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_a_collapsed_score_ranks_last(value: float) -> None:
    entry = torch.arange(10)
    sides = [Embedded(torch.ones(10, 2), entry, entry) for _ in range(2)]
    scored, settings = Scored(torch.full((10, 10), value), *sides, ()), EvaluateSettings(split="test")
    found = evaluate_scores(scored, settings, "x", "y", alone())
    for metrics in found.metrics.values():
        assert (metrics.r_at_1, metrics.r_at_5, metrics.median_rank) == (0, 0, 10)


def test_one_score_that_is_no_number_ranks_last() -> None:
    entry, scores = torch.arange(4), torch.eye(4)
    scores[0, 0] = torch.nan
    scored = Scored(scores, *[Embedded(torch.ones(4, 2), entry, entry)] * 2, ())
    found = evaluate_scores(scored, EvaluateSettings(split="test"), "x", "y", alone())
    assert found.metrics["pair/a_to_b"].r_at_1 == 75
