"""The hinge on given scores against literal double loops in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.distributed import alone
from swamp_dist.objective.contrastive.columns import Gathered
from swamp_dist.objective.contrastive.hardest import hardest_negative, search
from swamp_dist.objective.contrastive.score_hinge import score_hinge

PAIRS, MARGIN = 6, 0.3


def drawn(seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return torch.rand(PAIRS, PAIRS, dtype=torch.float64).requires_grad_()


def literal(s: Tensor, keys: list[int], hardest: bool) -> Tensor:
    total = s.new_zeros(())
    for i in range(PAIRS):
        others = [j for j in range(PAIRS) if keys[j] != keys[i]]
        for of in (lambda j, i=i: s[i, j], lambda j, i=i: s[j, i]):
            hinges = [(MARGIN + of(j) - s[i, i]).clamp(min=0) for j in others]
            if hardest and hinges:
                total = total + max(hinges, key=lambda x: float(x.detach())) / PAIRS
            if not hardest:
                total = total + (sum(hinges, s.new_zeros(())) + MARGIN) / PAIRS**2
    return total


@pytest.mark.parametrize("hardest", [True, False])
@pytest.mark.parametrize("keys", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 2, 2], [7] * 6])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_values_and_gradients_are_those_of_literal_loops(hardest: bool, keys: list[int], ranks: int) -> None:
    s, count = drawn(), PAIRS // ranks
    matches = torch.tensor(keys)[:, None] == torch.tensor(keys)
    parts = [
        score_hinge(s, rank * count, count, MARGIN, hardest, None if len(set(keys)) == PAIRS else matches)
        for rank in range(ranks)
    ]
    found, expected = torch.stack([p.loss for p in parts]).mean(), literal(s, keys, hardest)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    wanted = torch.autograd.grad(expected + 0 * s.sum(), s)[0]
    torch.testing.assert_close(torch.autograd.grad(found, s)[0], wanted, rtol=1e-12, atol=1e-14)


def test_cosines_give_the_loss_of_embeddings() -> None:
    torch.manual_seed(0)
    a, b = functional.normalize(torch.randn(2, PAIRS, 4, dtype=torch.float64), dim=2)
    expected = hardest_negative(a, b, search(b, Gathered(a).lap(), alone()), MARGIN, alone())
    found = score_hinge(a @ b.t(), 0, PAIRS, MARGIN, hardest=True)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.hardest, expected.hardest, rtol=1e-13, atol=0)


def test_figures_are_means_over_negatives() -> None:
    s = drawn().detach()
    found = score_hinge(s, 0, PAIRS, MARGIN, hardest=True)
    off = ~torch.eye(PAIRS, dtype=torch.bool)
    torch.testing.assert_close(found.negative, s[off].mean())
    low = s.masked_fill(~off, -1)
    torch.testing.assert_close(found.hardest, (low.max(0).values.mean() + low.max(1).values.mean()) / 2)


@pytest.mark.parametrize("hardest", [True, False])
def test_nan_reaches_the_loss(hardest: bool) -> None:
    s = drawn().detach()
    s[1, 2] = torch.nan
    assert bool(score_hinge(s, 0, PAIRS, MARGIN, hardest).loss.isnan())
