"""Negatives weighed by swapped targets: the whole objective against float64 loops, on any number of ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist import distributed
from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World, alone
from swamp_dist.objective.contrastive.negative_weights import negative_weights
from swamp_dist.objective.objective import build_objective
from swamp_dist.records import BatchPlan, PairEmbeddings, SoftTargets
from tests.ranks import run_on_ranks

PAIRS, DIM, PROTOTYPES, SCALE, LAMBDA = 12, 5, 4, 10.0, 0.5
EPSILON, TAU, ITERATIONS = 0.1, 0.5, 4
FIGURES = ("loss/contrastive", "loss/swamp", "contrastive/negative_weight")


def _rows() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(5)
    a, b = torch.randn(2, PAIRS, DIM, generator=random, dtype=torch.float64)
    prototypes = torch.randn(PROTOTYPES, DIM, generator=random, dtype=torch.float64)
    return tuple(functional.normalize(x, dim=1) for x in (a, a + 0.7 * b, prototypes))  # type: ignore[return-value]


def _settings(assignment: str, chunk: int | None, **others: Any) -> ObjectiveSettings:
    tree: dict[str, Any] = {
        "contrastive": {
            "form": "infonce",
            "temperature": 1 / SCALE,
            "negative_weights": others.get("negative_weights", "swapped_targets"),
            "chunk": chunk,
        },
        "swamp": {
            "weight": LAMBDA,
            "prototypes": PROTOTYPES,
            "temperature": TAU,
            "eta": TAU / EPSILON,
            "assignment": assignment,
            "queue": others.get("queue", {"size": 0, "start_when_filled": 0}),
            "sinkhorn": {"iterations": ITERATIONS, "warm_start": False},
        },
    }
    return ObjectiveSettings.model_validate(tree)


def _found(world: World, assignment: str, chunk: int | None) -> dict[str, Tensor]:
    """Losses and gradients of the batch by the objective."""
    plan = BatchPlan(PAIRS, 1, 12, world.size)
    objective = build_objective(
        _settings(assignment, chunk), plan, DIM, world.device, torch.float64, world.rank
    )
    mine = slice(world.rank * plan.local_pairs, (world.rank + 1) * plan.local_pairs)
    a, b, prototypes = _rows()
    leaves = [x.clone().requires_grad_() for x in (a[mine], b[mine], prototypes)]
    ids = torch.arange(PAIRS)[mine]
    terms = objective(PairEmbeddings(*leaves), ids, ids, 0, world)
    on_a, on_b, on_prototypes = torch.autograd.grad(terms.total, leaves)
    values = {f"loss/{name}": loss.detach() for name, loss in terms.terms.items()} | terms.diagnostics
    found = {name: distributed.mean_over_ranks(values[name].clone(), world) for name in FIGURES}
    found["on_prototypes"] = distributed.mean_over_ranks(on_prototypes.clone(), world)
    return found | {
        name: distributed.gather(x, world) / world.size for name, x in (("on_a", on_a), ("on_b", on_b))
    }


def _targets(rows: Tensor, prototypes: Tensor, assignment: str) -> Tensor:
    plan = torch.exp(rows @ prototypes.t() / EPSILON)
    for _ in range(ITERATIONS):
        plan = plan / plan.sum(dim=0, keepdim=True)
        plan = plan / plan.sum(dim=1, keepdim=True)
    if assignment == "soft":
        return plan
    return functional.one_hot(plan.argmax(dim=1), PROTOTYPES).to(plan.dtype)


def _expected(assignment: str) -> dict[str, Tensor]:
    """The same, every number of the batch by itself."""
    a, b, prototypes = leaves = [x.clone().requires_grad_() for x in _rows()]
    with torch.no_grad():
        of_a, of_b = _targets(b, prototypes, assignment), _targets(a, prototypes, assignment)
        weights = [
            [1.0 if i == j else 1 - float(of_a[i] @ of_b[j]) for j in range(PAIRS)] for i in range(PAIRS)
        ]
    contrastive = a.new_zeros(())
    for i in range(PAIRS):
        to_b = sum(weights[i][j] * torch.exp(SCALE * a[i] @ b[j]) for j in range(PAIRS))
        to_a = sum(weights[j][i] * torch.exp(SCALE * a[j] @ b[i]) for j in range(PAIRS))
        partner = torch.exp(SCALE * a[i] @ b[i])
        contrastive = contrastive - torch.log(partner / to_b) - torch.log(partner / to_a)
    contrastive = contrastive / (2 * PAIRS)
    swamp = a.new_zeros(())
    for rows, targets in ((a, of_a), (b, of_b)):
        swamp = swamp - (targets * (rows @ prototypes.t() / TAU).log_softmax(dim=1)).sum() / PAIRS
    on_a, on_b, on_prototypes = torch.autograd.grad(contrastive + LAMBDA * swamp, leaves)
    others = [weights[i][j] for i in range(PAIRS) for j in range(PAIRS) if i != j]
    found = {"loss/contrastive": contrastive.detach(), "loss/swamp": swamp.detach()}
    found["contrastive/negative_weight"] = a.new_tensor(others).mean()
    return found | {"on_a": on_a, "on_b": on_b, "on_prototypes": on_prototypes}


CASES = [("soft", None), ("soft", 5), ("hard", None)]


def _all(world: World) -> list[dict[str, Tensor]]:
    return [_found(world, *case) for case in CASES]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_objective_is_its_double_loop(size: int) -> None:
    right = [_expected(assignment) for assignment, _ in CASES]
    for result in [_all(alone())] if size == 1 else run_on_ranks(_all, size):
        torch.testing.assert_close(result, right, rtol=0, atol=1e-10)
    weight = float(right[0]["contrastive/negative_weight"])
    assert 0.1 < weight < 0.95, "the test would not tell weights from none"


def test_until_swamp_counts_negatives_weigh_the_same() -> None:
    ids, plan, rows = torch.arange(PAIRS), BatchPlan(PAIRS, 1, 12, 1), PairEmbeddings(*_rows())
    losses: dict[str, list[Tensor]] = {}
    for weights in ("swapped_targets", "equal"):
        queue = {"size": 30, "start_when_filled": 20}  # two batches
        settings = _settings("soft", None, negative_weights=weights, queue=queue)
        objective = build_objective(settings, plan, DIM, torch.device("cpu"), torch.float64)
        losses[weights] = [objective(rows, ids, ids, step, alone()).terms["contrastive"] for step in range(2)]
    assert losses["swapped_targets"][0] == losses["equal"][0]
    assert losses["swapped_targets"][1] < losses["equal"][1]


def test_rounding_makes_no_weight_negative() -> None:
    same = functional.one_hot(torch.zeros(3, dtype=torch.long), 3) * (1 + 1e-6)
    weights, mean = negative_weights(SoftTargets(same, same, torch.zeros(()), 1, 0), alone())
    torch.testing.assert_close(weights(slice(0, 3), slice(0, 3)), torch.eye(3))
    assert float(mean) == pytest.approx(0, abs=1e-5)
