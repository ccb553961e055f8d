"""What `objective.precision` does to losses, gradients, ranks of a world and targets."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from swamp_dist.config import ObjectiveSettings, StageSettings
from swamp_dist.distributed import World, alone
from swamp_dist.objective.objective import build_objective
from swamp_dist.objective.products import Precision, cosine_bound, rounded
from swamp_dist.records import BatchPlan, PairEmbeddings
from tests.objective.contrastive.batches import Found, batch, compared
from tests.ranks import run_on_ranks

ROUNDED: tuple[Precision, ...] = ("tf32", "bf16")
TEMPERATURE = 0.05
FORMS: dict[str, dict[str, Any]] = {
    "all": {"form": "all", "margin": 0.2},
    "hardest": {"form": "hardest", "margin": 0.2},
    "infonce": {"form": "infonce", "temperature": TEMPERATURE},
    "sigmoid": {"form": "sigmoid", "temperature": TEMPERATURE, "logit_bias": -10.0},
}
PAIRS, DIM, PROTOTYPES = 48, 64, 12
FLOAT32 = 1e-5
"""More than what float32 sums of these sizes are off by, relative to a sum of absolute values."""


# -- the contrastive term --------------------------------------------------------------------------


def _similar(seed: int) -> tuple[Tensor, Tensor]:
    """Unit rows a, b (B, D) in float32 whose pairs are alike."""
    random = torch.Generator().manual_seed(seed)
    a, noise = torch.randn(2, PAIRS, DIM, generator=random)
    return functional.normalize(a, dim=1), functional.normalize(a + noise, dim=1)


def _losses(form: str, seed: int, precision: Precision) -> tuple[Found, Found]:
    """With rounded products of float32, and exactly in float64; on one rank."""
    asked = FORMS[form]
    sides = _similar(seed)
    exact = sides[0].double(), sides[1].double()
    return _compared(asked, sides, precision), _compared(asked, exact, "ieee")


def _compared(asked: dict[str, Any], sides: tuple[Tensor, Tensor], precision: Precision) -> Found:
    """As `batches.compared`, with the temperature of the settings."""
    tree = {"contrastive": asked, "swamp": {"weight": 0}, "precision": precision}
    plan, count = BatchPlan(PAIRS, 1, 1, 1), torch.arange(PAIRS)
    objective = build_objective(
        ObjectiveSettings.model_validate(tree), plan, DIM, torch.device("cpu"), sides[0].dtype
    )
    a, b = (side.clone().requires_grad_() for side in sides)
    loss = objective(PairEmbeddings(a, b, None), count, count, 0, alone()).total
    on_a, on_b = torch.autograd.grad(loss, (a, b))
    return {"loss": loss.detach().double(), "on_a": on_a.double(), "on_b": on_b.double()}


LOSS_BOUND = {"all": 2.0, "hardest": 4.0, "infonce": 2 / TEMPERATURE, "sigmoid": PAIRS / TEMPERATURE}
"""Most that a loss moves by, in units of t (`swamp_dist/README.md`)."""


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=10)
def test_a_loss_moves_by_no_more_than_its_bound(form: str, precision: Precision, seed: int) -> None:
    found, exact = _losses(form, seed, precision)
    moved = float(found["loss"] - exact["loss"])
    bound = LOSS_BOUND[form] * cosine_bound(precision)
    assert form == "hardest" or moved != 0
    assert abs(moved) <= bound + FLOAT32 * (1 + float(exact["loss"]))
    if form == "hardest":  # what is found is scored anew: it can only be less hard
        assert moved <= FLOAT32


@pytest.mark.parametrize("precision", ROUNDED)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=10)
def test_a_gradient_of_infonce_moves_by_no_more_than_its_bound(precision: Precision, seed: int) -> None:
    """Each probability changes by a factor within e^(+-2t / T), and the product by t of sums of |pulls|."""
    found, exact = _losses("infonce", seed, precision)
    t, (a, b) = cosine_bound(precision), _similar(seed)
    logits = b.double() @ a.double().t() / TEMPERATURE
    probabilities = logits.softmax(dim=1) + logits.softmax(dim=0)
    grown = math.exp(2 * t / TEMPERATURE)
    pulls = grown * probabilities + 2 * torch.eye(PAIRS)
    unit = 1 / (2 * PAIRS * TEMPERATURE)
    moved = unit * ((grown - 1) * probabilities + t * pulls)
    for name, dim in (("on_b", 1), ("on_a", 0)):
        off = (found[name] - exact[name]).norm(dim=1)
        assert (off <= moved.sum(dim=dim) + FLOAT32).all()
        assert float(off.max()) > 0


@pytest.mark.parametrize("precision", ROUNDED)
def test_a_gradient_of_the_hinge_is_a_sum_of_rounded_rows(precision: Precision) -> None:
    """Its pulls are 0, 1 and 2, which every precision has: the same hinges give the sum of rounded rows."""
    a, b = (rounded(side, precision) for side in _similar(3))  # no similarity is rounded any further
    whole = _compared(FORMS["all"], (a, b), "ieee")
    found = _compared(FORMS["all"], (a, b), precision)
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


RANKS = 3
ON_RANKS: dict[str, dict[str, Any]] = {
    "all": {"form": "all"},
    "hardest": {"form": "hardest", "margin": 0.2},
    "hardest, class": {"form": "hardest", "margin": 0.2, "positives": "class"},
    "infonce": {"form": "infonce"},
    "infonce in tiles": {"form": "infonce", "chunk": 5},
    "infonce on a ring": {"form": "infonce", "columns": "ring"},
    "sigmoid on a ring": {"form": "sigmoid", "columns": "ring", "chunk": 3},
}


def _of_all(world: World, dtype: torch.dtype) -> dict[tuple[str, str], Found]:
    sides = batch(12, 16, "siblings")
    sides = sides[0].to(dtype), sides[1].to(dtype)
    return {
        (name, precision): compared(world, asked, sides, precision=precision)
        for name, asked in ON_RANKS.items()
        for precision in ROUNDED
    }


def test_ranks_find_what_one_finds() -> None:
    """Rows and pulls are rounded one by one, so that no rank, tile or ring rounds them otherwise."""
    expected = _of_all(alone(), torch.float64)
    ieee = {name: compared(alone(), asked, batch(12, 16, "siblings")) for name, asked in ON_RANKS.items()}
    for of_rank in run_on_ranks(_of_all, RANKS, torch.float64, how="threads"):
        for case, found in of_rank.items():
            torch.testing.assert_close(
                found, expected[case], rtol=0, atol=1e-12, msg=lambda m, at=case: f"{at}: {m}"
            )
    for (name, precision), found in expected.items():
        is_searched = name.startswith("hardest")
        assert is_searched or not torch.equal(found["loss"], ieee[name]["loss"]), (name, precision)


# -- SwAMP's own scores ----------------------------------------------------------------------------


def _swamp(precision: Precision) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """Loss, gradients of a, b and prototypes, and figures of SwAMP alone."""
    swamp = {"prototypes": PROTOTYPES, "temperature": 0.1, "queue": {"size": PAIRS, "start_when_filled": 0}}
    tree = {"contrastive": {"weight": 0}, "swamp": swamp, "precision": precision}
    plan, count = BatchPlan(PAIRS, 1, 1, 1), torch.arange(PAIRS)
    objective = build_objective(ObjectiveSettings.model_validate(tree), plan, DIM, torch.device("cpu"))
    random = torch.Generator().manual_seed(1)
    prototypes = functional.normalize(torch.randn(PROTOTYPES, DIM, generator=random), dim=1)
    leaves = [x.clone().requires_grad_() for x in (*_similar(1), prototypes)]
    terms = objective(PairEmbeddings(*leaves), count, count, 0, alone())
    return terms.total.detach(), list(torch.autograd.grad(terms.total, leaves)), dict(terms.diagnostics)


@pytest.mark.parametrize("precision", ROUNDED)
def test_the_solve_and_its_targets_keep_every_bit(precision: Precision) -> None:
    loss, gradients, figures = _swamp(precision)
    expected_loss, expected, expected_figures = _swamp("ieee")
    assert torch.equal(loss, expected_loss)
    torch.testing.assert_close(figures, expected_figures, rtol=0, atol=0)
    for found, exact in zip(gradients, expected, strict=True):
        off = (found - exact).norm() / exact.norm()
        assert 1e-6 < off <= 2 * cosine_bound(precision)


# -- settings --------------------------------------------------------------------------------------


def test_a_precision_without_a_product_is_refused() -> None:
    tree = {
        "contrastive": {"weight": 0},
        "swamp": {"weight": 0},
        "triplet": {"weight": 1},
        "precision": "tf32",
    }
    with pytest.raises(ValueError, match="no other term has a product"):
        ObjectiveSettings.model_validate(tree)


def test_a_model_that_scores_pairs_refuses_a_precision() -> None:
    tree: dict[str, Any] = {
        "name": "x",
        "data": {"shards": "x", "a": "a", "b": "b", "entries": 8},
        "model": {"sets": {"kind": "cross_attention", "queries": "b"}},
        "objective": {"contrastive": {"form": "hardest"}, "swamp": {"weight": 0}},
        "train": {"epochs": 1},
    }
    StageSettings.model_validate(tree)
    with pytest.raises(ValueError, match="rounds products of embeddings, of which there are none"):
        StageSettings.model_validate(tree | {"objective": tree["objective"] | {"precision": "bf16"}})
