"""The terms of Doodle2Search against values by hand, and against one process on 2 and on 3 ranks."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from swamp_dist.config import (
    ContrastiveSettings,
    DomainSettings,
    Doodle2SearchSettings,
    MlpSettings,
    ModelSettings,
    ObjectiveSettings,
    QueueSettings,
    SemanticSettings,
    SinkhornSettings,
    SwampSettings,
    TripletSettings,
)
from swamp_dist.distributed import World, alone, mean_over_ranks
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.objective.objective import Objective, build_objective
from swamp_dist.objective.reversals import ramp, reversals
from swamp_dist.objective.term import TermInputs
from swamp_dist.objective.terms import domain, semantic, triplet
from swamp_dist.records import BatchPlan, PairEmbeddings, Reversals
from tests.ranks import run_on_ranks

PAIRS, WIDTH, DIM, WORDS, CLASSES, STEPS = 12, 6, 5, 4, 7, 3
STRENGTHS = Reversals(0.5, 0.3)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def given(**rows: Tensor | None) -> TermInputs:
    unit = torch.eye(3, dtype=torch.float64)
    plan, mine = BatchPlan(3, 1, 1, 1), PairEmbeddings(unit, unit, None)._replace(**rows)
    labels = torch.tensor([2, 0, 1])
    vectors = drawn(CLASSES, WORDS, seed=9)
    return TermInputs(
        plan, mine, None, (None, None), lambda: labels, labels, 0, alone(), None, labels, vectors
    )


def test_triplets_are_the_written_sum_and_equal_rows_have_a_gradient() -> None:
    a, b, n = (drawn(3, DIM, seed=seed) for seed in range(3))
    b[0] = a[0]
    rows = [x.clone().requires_grad_() for x in (a, b, n)]
    inputs = given(free_a=rows[0], free_b=rows[1], negatives=rows[2])
    found = triplet.term(TripletSettings(weight=2, margin=1.5), inputs)
    expected = [max(0.0, 1.5 + math.dist(x, y) - math.dist(x, z)) for x, y, z in zip(a, b, n, strict=True)]
    assert found.loss is not None
    assert found.weight == 2
    assert found.loss.item() == pytest.approx(sum(expected) / 3, abs=1e-12)
    assert float(found.figures["distance/positive"]) == pytest.approx(
        sum(map(math.dist, a, b)) / 3, abs=1e-12
    )
    assert float(found.figures["triplet/satisfied"]) == sum(x == 0 for x in expected) / 3
    found.loss.backward()
    assert all(x.grad is not None and bool(torch.isfinite(x.grad).all()) for x in rows)
    assert rows[1].grad is not None
    assert not rows[1].grad[0].any()
    unit, unlike = torch.eye(3, dtype=torch.float64), drawn(3, 3, seed=2)
    of_unit = triplet.term(TripletSettings(weight=1), given(negatives=unlike)).loss
    assert of_unit is not None
    expected = [max(0.0, 1 - math.dist(x, z)) for x, z in zip(unit, unlike, strict=True)]
    assert float(of_unit) == pytest.approx(sum(expected) / 3, abs=1e-12)


def test_semantic_loss_adds_three_distances_to_the_anchors_class() -> None:
    words, inputs = drawn(3, 3, WORDS, seed=4), given()
    found = semantic.term(SemanticSettings(weight=1), given(words=words))
    assert inputs.labels is not None
    assert inputs.class_vectors is not None
    total = 0.0
    for row, label in zip(words, inputs.labels.tolist(), strict=True):
        target = inputs.class_vectors[label]
        for word in row:
            cosine = float(word @ target) / (float(word.norm()) * float(target.norm()))
            total += (1 - cosine) / 2
    assert found.loss is not None
    assert float(found.loss) == pytest.approx(total / 3, abs=1e-12)


def test_domain_loss_is_cross_entropy_of_sketch_photo_photo() -> None:
    logits = drawn(3, 3, seed=5)
    found = domain.term(DomainSettings(weight=1), given(domains=logits))
    losses, right = [], 0
    for row in logits.tolist():
        for logit, truth in zip(row, (0, 1, 1), strict=True):
            share = 1 / (1 + math.exp(-logit))
            losses.append(-math.log(share if truth else 1 - share))
            right += (logit > 0) == bool(truth)
    assert found.loss is not None
    assert float(found.loss) == pytest.approx(sum(losses) / 9, abs=1e-12)
    assert float(found.figures["domain/accuracy"]) == pytest.approx(right / 9)


def test_terms_of_weight_0_ask_for_nothing_and_others_say_what_is_missing() -> None:
    assert triplet.term(TripletSettings(), given()).loss is None
    assert semantic.term(SemanticSettings(), given()).loss is None
    assert domain.term(DomainSettings(), given()).loss is None
    with pytest.raises(ValueError, match="negatives"):
        triplet.term(TripletSettings(weight=1), given())
    with pytest.raises(ValueError, match="doodle2search"):
        semantic.term(SemanticSettings(weight=1), given())
    with pytest.raises(ValueError, match="doodle2search"):
        domain.term(DomainSettings(weight=1), given())


def test_the_ramp_runs_over_epochs_or_starts_anew_in_each() -> None:
    assert [ramp(number) for number in (0, 4, 5, 15, 25, 26)] == [0, 0, 0, 0.5, 1, 1]
    by_epoch = ObjectiveSettings(domain=DomainSettings(weight=1), semantic=SemanticSettings(reversal=0.25))
    by_batch = ObjectiveSettings(domain=DomainSettings(weight=1, ramp="batch"))
    assert reversals(by_epoch, 15 * 40 + 39, 40) == Reversals(0.25, 0.5)
    assert reversals(by_batch, 15 * 40 + 39, 40) == Reversals(0.5, 1.0)
    assert reversals(by_batch, 15 * 40 + 15, 40) == Reversals(0.5, 0.5)
    assert reversals(ObjectiveSettings(triplet=TripletSettings(weight=1)), 3, 40) is None


def settings(contrastive: float = 0.0) -> ObjectiveSettings:
    sinkhorn = SinkhornSettings(iterations=3)
    return ObjectiveSettings(
        contrastive=ContrastiveSettings(weight=contrastive),
        swamp=SwampSettings(
            weight=0.1, prototypes=8, queue=QueueSettings(size=24), sinkhorn=sinkhorn, temperature=0.25
        ),
        triplet=TripletSettings(weight=1.0),
        semantic=SemanticSettings(weight=0.7),
        domain=DomainSettings(weight=0.6),
    )


def model() -> DualEncoder:
    asked = ModelSettings(
        embedding_dim=DIM,
        length="free",
        a=MlpSettings(hidden=(7,)),
        b=MlpSettings(hidden=(8,)),
        doodle2search=Doodle2SearchSettings(word_hidden=6, domain_hidden=5, dropout=0),
    )
    return build_dual_encoder(asked, (WIDTH,), (WIDTH,), 8, True, 0, word_dim=WORDS).double()


def stage_objective(world: World, contrastive: float) -> Objective:
    plan = BatchPlan(PAIRS, 1, 6, world.size)
    objective = build_objective(
        settings(contrastive), plan, DIM, world.device, torch.float64, rank=world.rank
    )
    objective.class_vectors = drawn(CLASSES, WORDS, seed=9)
    return objective


def steps_on_ranks(world: World, dual: DualEncoder, contrastive: float) -> list[tuple[float, list[float]]]:
    """Mean loss and gradients of some steps of plain descent, in float64."""
    dual, objective = copy.deepcopy(dual), stage_objective(world, contrastive)
    share = slice(world.rank * PAIRS // world.size, (world.rank + 1) * PAIRS // world.size)
    found = []
    for step in range(STEPS):
        a, b, n = (drawn(PAIRS, WIDTH, seed=10 * step + side)[share] for side in range(3))
        labels = (torch.arange(PAIRS) % CLASSES)[share]
        entries = torch.arange(PAIRS)[share]
        rows: Any = dual(a, b, None, n, STRENGTHS)
        terms = objective(rows, entries + 100 * step, entries, step, world, None, labels)
        dual.zero_grad()
        terms.total.backward()
        objective.measure(terms, world)
        mean, gradients = averaged(world, terms.total.detach(), dual)
        with torch.no_grad():
            for parameter, gradient in zip(dual.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
        found.append((float(mean), torch.cat([x.flatten() for x in gradients]).tolist()))
    return found


def averaged(world: World, loss: Tensor, dual: DualEncoder) -> tuple[Tensor, list[Tensor]]:
    """Means over ranks of a loss and of the gradients of a model."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in dual.parameters()]
    return mean_over_ranks(loss, world), [mean_over_ranks(x.clone(), world) for x in gradients]


@pytest.mark.parametrize("contrastive", [0.0, 0.5])
def test_losses_and_gradients_do_not_depend_on_the_ranks(contrastive: float) -> None:
    dual = model()
    alone_found = torch.tensor(flat(steps_on_ranks(alone(), dual, contrastive)), dtype=torch.float64)
    assert torch.isfinite(alone_found).all()
    for size in (2, 3):
        results = run_on_ranks(steps_on_ranks, size, dual, contrastive, how="threads")
        for found in results:
            shared = torch.tensor(flat(found), dtype=torch.float64)
            torch.testing.assert_close(shared, alone_found, rtol=0, atol=1e-10)


def flat(found: list[tuple[float, list[float]]]) -> list[float]:
    return [value for loss, gradients in found for value in (loss, *gradients)]
