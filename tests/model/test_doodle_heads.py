"""Heads of Doodle2Search, reversal of gradients, and rows of free length beside those of unit length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from swamp_dist.config import Doodle2SearchSettings, MlpSettings, ModelSettings
from swamp_dist.model.doodle_heads import DoodleHeads
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.model.gradient_reversal import reverse_gradient
from swamp_dist.records import PairEmbeddings, Reversals

ROWS, WIDTH, DIM = 4, 6, 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def model(length: str = "free", heads: bool = True) -> DualEncoder:
    asked = ModelSettings.model_validate(
        {
            "embedding_dim": DIM,
            "length": length,
            "a": MlpSettings(hidden=(7,)),
            "b": MlpSettings(hidden=(8,)),
            "doodle2search": {"dropout": 0} if heads else None,
        }
    )
    return build_dual_encoder(asked, (WIDTH,), (WIDTH,), 3, True, 0, word_dim=2 if heads else None).double()


def test_reversal_is_the_identity_with_a_scaled_opposite_gradient() -> None:
    rows = drawn(3, 4).requires_grad_()
    weights = drawn(3, 4, seed=1)
    found = reverse_gradient(rows, 0.3)
    assert torch.equal(found, rows)
    (found * weights).sum().backward()
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad, -0.3 * weights, rtol=0, atol=1e-15)


def test_heads_reverse_what_the_losses_say() -> None:
    torch.manual_seed(0)
    heads = DoodleHeads(Doodle2SearchSettings(dropout=0), DIM, 3).double()
    rows = [drawn(ROWS, DIM, seed=seed).requires_grad_() for seed in range(3)]
    words, domains = heads(*rows, Reversals(0.5, 0.2))
    assert words.shape == (ROWS, 3, 3)
    assert domains.shape == (ROWS, 3)
    plain = [x.detach().clone().requires_grad_() for x in rows]
    for outputs, part, factors in ((words, heads.words, (1, 1, -0.5)), (domains, heads.domain, (-0.2,) * 3)):
        found = torch.autograd.grad(outputs.square().sum(), rows, retain_graph=True)
        for column, (row, gradient, factor) in enumerate(zip(plain, found, factors, strict=True)):
            expected_output = part(row)
            torch.testing.assert_close(outputs[:, column].reshape(expected_output.shape), expected_output)
            (expected,) = torch.autograd.grad(expected_output.square().sum(), row)
            torch.testing.assert_close(gradient, factor * expected, rtol=0, atol=1e-12)


def test_free_rows_are_given_beside_rows_of_unit_length() -> None:
    dual = model()
    a, b, n = (drawn(ROWS, WIDTH, seed=seed) for seed in range(3))
    handed: list[Tensor] = []
    found: Any = dual(a, b, handed.append, n, Reversals(0.5, 1))
    assert isinstance(found, PairEmbeddings)
    assert found.free_a is not None
    assert found.free_b is not None
    torch.testing.assert_close(found.a.norm(dim=1), torch.ones(ROWS, dtype=torch.float64))
    torch.testing.assert_close(found.a * found.free_a.norm(dim=1, keepdim=True), found.free_a)
    assert torch.equal(handed[0], found.a)
    assert torch.equal(dual(a, None), found.free_a)
    assert torch.equal(dual(None, b), found.free_b)
    assert torch.equal(dual(None, n), found.negatives)
    assert found.words is not None
    assert found.domains is not None
    assert found.words.shape == (ROWS, 3, 2)
    assert found.domains.shape == (ROWS, 3)


@pytest.mark.parametrize("length", ["unit", "free"])
def test_without_negatives_or_heads_nothing_more_is_given(length: str) -> None:
    dual = model(length, heads=False)
    a, b = (drawn(ROWS, WIDTH, seed=seed) for seed in range(2))
    found: Any = dual(a, b)
    assert found.negatives is found.words is found.domains is None
    assert (found.free_a is None) == (length == "unit")
    with_negatives: Any = dual(a, b, None, b)
    assert torch.equal(with_negatives.negatives, dual(None, b))
    assert with_negatives.words is None


def test_heads_change_no_weight_of_the_encoders_that_are_drawn() -> None:
    with_heads, without = model().state_dict(), model(heads=False).state_dict()
    shared = [name for name in without if not name.startswith("prototypes.")]
    assert all(torch.equal(with_heads[name], without[name]) for name in shared)
    assert [name for name in with_heads if name not in without] == [
        f"heads.{name}"
        for name in model().heads.state_dict()  # type: ignore[union-attr]
    ]
