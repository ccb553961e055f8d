"""SCAN's cross attention against literal loops over captions, regions and words, in float64."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swamp_dist.config import CrossAttentionSettings
from swamp_dist.config.sets import AttentionNorm
from swamp_dist.model.cross_attention import EPS, SLOPE, pair_scores, scores
from swamp_dist.records import Sets

NORMS, AGGREGATES = get_args(AttentionNorm), ("mean", "lse", "max", "sum")


def rules_of(**values: object) -> CrossAttentionSettings:
    return CrossAttentionSettings.model_validate({"queries": "a", **values})


RULES = rules_of()


def literal(query: Tensor, context: Tensor, rules: CrossAttentionSettings) -> Tensor:
    """One pair as the published code has it: (n, d), (m, d) without padding -> 0-d."""
    n, m = len(query), len(context)
    attention = context @ query.t()  # (m, n), as there
    if rules.norm.startswith("clipped"):
        attention = torch.where(attention > 0, attention, SLOPE * attention)
    rows = []
    for row in attention:  # of one context element, over all queries
        if rules.norm == "softmax":
            row = row.exp() / row.exp().sum()
        elif rules.norm.endswith("l2norm"):
            row = row / ((row * row).sum().sqrt() + EPS)
        elif rules.norm.endswith("l1norm"):
            row = row / (row.abs().sum() + EPS)
        rows.append(row)
    found = []
    for i in range(n):
        weights = torch.stack([(rules.softmax_scale * rows[j][i]).exp() for j in range(m)])
        weights = weights / weights.sum()
        attended = sum((weights[j] * context[j] for j in range(m)), torch.zeros_like(query[0]))
        product = (query[i] @ query[i]).sqrt() * (attended @ attended).sqrt()
        found.append((query[i] @ attended) / product.clamp(min=EPS))
    r = torch.stack(found)
    if rules.aggregate == "lse":
        return (rules.lse_scale * r).exp().sum().log() / rules.lse_scale
    return {"mean": r.mean(), "sum": r.sum(), "max": r.max()}[rules.aggregate]


def drawn(lengths: list[int], d: int, seed: int, padding: int = 0) -> Sets:
    """Sets of unit vectors; what stands in the padding is large."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths) + padding
    values = torch.randn(len(lengths), width, d, generator=generator, dtype=torch.float64)
    values = torch.nn.functional.normalize(values, dim=2)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return Sets(values.masked_fill(~mask[:, :, None], 1e3).requires_grad_(), mask)


def all_literal(queries: Sets, contexts: Sets, rules: CrossAttentionSettings) -> Tensor:
    def each(sets: Sets) -> list[Tensor]:
        return [values[mask] for values, mask in zip(sets.values, sets.mask, strict=True)]

    return torch.stack([torch.stack([literal(q, c, rules) for c in each(contexts)]) for q in each(queries)])


def agree(queries: Sets, contexts: Sets, rules: CrossAttentionSettings) -> None:
    """Values to 1e-12 and gradients to 1e-10."""
    leaves = queries.values, contexts.values
    expected = all_literal(queries, contexts, rules)
    found = scores(queries, contexts, rules)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    pull = torch.linspace(-1, 2, expected.numel(), dtype=torch.float64).view_as(expected)
    wanted = torch.autograd.grad((expected * pull).sum(), leaves)
    given_ = torch.autograd.grad((found * pull).sum(), leaves)
    for one, other in zip(given_, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_scores_are_those_of_literal_loops(norm: str, aggregate: str) -> None:
    rules = rules_of(norm=norm, aggregate=aggregate, softmax_scale=4.0, lse_scale=5.0)
    agree(drawn([3, 1, 4], 5, 0, padding=1), drawn([2, 6], 5, 1, padding=2), rules)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(1, 6),
    st.sampled_from(NORMS),
    st.sampled_from(AGGREGATES),
    st.integers(0, 2**16),
)
def test_sets_of_any_length(
    of_queries: list[int], of_contexts: list[int], d: int, norm: str, aggregate: str, seed: int
) -> None:
    agree(
        drawn(of_queries, d, seed), drawn(of_contexts, d, seed + 1), rules_of(norm=norm, aggregate=aggregate)
    )


def test_either_modality_may_have_the_queries() -> None:
    a, b = drawn([3, 1, 4], 5, 0), drawn([2, 6], 5, 1)
    assert torch.equal(pair_scores(a, b, rules_of(queries="a")), scores(a, b, RULES))
    assert torch.equal(pair_scores(a, b, rules_of(queries="b")), scores(b, a, RULES).t())


def test_padding_and_mates_change_no_score() -> None:
    queries, contexts = drawn([3, 2], 4, 0, padding=3), drawn([5, 1], 4, 1, padding=4)
    whole = scores(queries, contexts, RULES)
    for i in range(2):
        for j in range(2):
            one = Sets(queries.values[i : i + 1, :3], queries.mask[i : i + 1, :3])
            other = Sets(contexts.values[j : j + 1, :5], contexts.mask[j : j + 1, :5])
            torch.testing.assert_close(scores(one, other, RULES)[0, 0], whole[i, j], rtol=0, atol=1e-14)


@pytest.mark.parametrize("pairs", [1, 2, 7, 1000])
def test_blocks_give_the_same(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole queries with some contexts, some queries with one context, one pair at a time."""
    queries, contexts = drawn([3, 1, 4, 4], 5, 0), drawn([2, 6, 3], 5, 1)
    leaves = queries.values, contexts.values
    expected = scores(queries, contexts, RULES)
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    monkeypatch.setattr("swamp_dist.model.cross_attention.TENSORS_OF_A_PAIR", 2**20 // (4 * 6 * 8 * pairs))
    found = scores(queries, contexts, rules_of(memory_mib=1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    for one, other in zip(torch.autograd.grad(found.square().sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_memory_bounds_what_is_kept() -> None:
    """With blocks, nothing of a pair's size waits for the backward pass."""
    queries, contexts = drawn([8] * 16, 4, 0), drawn([8] * 16, 4, 1)
    kept: list[int] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel() * x.element_size())
        return x

    for memory_mib in (1, 64):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            torch.autograd.backward(scores(queries, contexts, rules_of(memory_mib=memory_mib)).sum())
        largest = max(kept)
        assert (largest >= 16 * 16 * 8 * 8 * 8) == (memory_mib == 64)


def test_sets_without_elements_score_zero_and_have_no_gradient() -> None:
    queries, contexts = drawn([2, 2], 3, 0), drawn([3, 2], 3, 1)
    nothing = Sets(queries.values, queries.mask & torch.tensor([[True], [False]]))
    for aggregate in AGGREGATES:
        rules = rules_of(aggregate=aggregate)
        found = scores(nothing, contexts, rules)
        assert torch.equal(found[1], torch.zeros(2, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(found.sum(), queries.values)
        assert bool(gradient.isfinite().all())
        assert not gradient[1].any()
        assert torch.equal(scores(contexts, nothing, rules)[:, 1], torch.zeros(2, dtype=torch.float64))


def test_lse_grows_with_length_and_mean_does_not() -> None:
    """A sum, not a mean, stands under the logarithm of the published code."""
    query = drawn([1], 4, 0)
    twice = Sets(query.values.repeat(1, 2, 1), query.mask.repeat(1, 2))
    context = drawn([3], 4, 1)
    for aggregate, more in (("mean", 0.0), ("lse", math.log(2) / 6), ("max", 0.0)):
        rules = rules_of(norm="no_norm", aggregate=aggregate)
        difference = scores(twice, context, rules) - scores(query, context, rules)
        assert float(difference.detach()) == pytest.approx(more, abs=1e-12)
