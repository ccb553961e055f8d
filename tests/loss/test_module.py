"""`SwampLoss` in a loop of one's own gives the losses and gradients of a stage's objective."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from swamp_dist import SwampLoss
from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World, alone, mean_over_ranks
from swamp_dist.loss.start import draw_prototypes, make_logits
from swamp_dist.objective.objective import build_objective
from swamp_dist.records import BatchPlan, PairEmbeddings
from tests.ranks import run_on_ranks

BATCH, WIDTH, DIM, STEPS = 8, 5, 6, 5
QUEUE = {"size": 20, "start_when_filled": 0}
SWAMP: dict[str, Any] = {"weight": 0.5, "prototypes": 7, "queue": QUEUE, "measure_every": 2}
OFF: dict[str, Any] = {"weight": 0}
LEARNED = {"learn_temperature": True}
CASES: dict[str, dict[str, Any]] = {
    "all": {"swamp": SWAMP},
    "entry weights": {"swamp": SWAMP},
    "hardest after all": {
        "contrastive": {"form": "hardest", "all_negatives_steps": 2},
        "swamp": SWAMP | {"queue": QUEUE | {"unique_items": True}},
    },
    "infonce, ratio": {
        "contrastive": {"form": "infonce"} | LEARNED,
        "swamp": SWAMP | {"weight_as": "gradient_ratio", "gradient_ratio": 0.2},
    },
    "sigmoid, ring": {"contrastive": {"form": "sigmoid", "columns": "ring"} | LEARNED, "swamp": SWAMP},
    "infonce, classes": {"contrastive": {"form": "infonce", "positives": "class"}, "swamp": OFF},
    "mil_nce, entries": {
        "contrastive": {"form": "infonce", "positives": "entry", "multiple_positives": "mil_nce"},
        "swamp": SWAMP | {"sinkhorn": {"iterations": 3, "warm_start": False}, "normalize_prototypes": False},
    },
    "within modality": {
        "contrastive": {"form": "infonce", "targets": {"kind": "within_modality"}},
        "swamp": SWAMP,
    },
    "weighed negatives": {
        "contrastive": {"form": "infonce", "negative_weights": "swapped_targets"},
        "swamp": SWAMP,
    },
    "balanced plan": {
        "contrastive": {"form": "infonce", "targets": {"kind": "balanced_plan"}, "chunk": 3} | LEARNED,
        "swamp": OFF,
    },
    "pseudo-positives": {
        "contrastive": {"form": "infonce", "targets": {"kind": "pseudo_positives"}, "chunk": 3} | LEARNED,
        "swamp": OFF,
    },
    "swamp alone": {"contrastive": OFF, "swamp": SWAMP | {"assignment": "hard", "eta": 50.0}},
    "starts late": {"contrastive": {"reduction": "sum"}, "swamp": SWAMP | {"queue": {"size": 24}}},
}
PAIRS_PER_ENTRY = {"entry weights": 2, "mil_nce, entries": 2}
LATE = {"prototypes": 20}  # counts from the third batch on
CASES["starts late"]["swamp"] = CASES["starts late"]["swamp"] | LATE


def towers() -> nn.ModuleList:
    made = nn.ModuleList([nn.Linear(WIDTH, DIM, dtype=torch.float64) for _ in range(2)])
    random = torch.Generator().manual_seed(7)
    for parameter in made.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    return made


def batch(step: int, world: World) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """This rank's inputs of a and b, item ids and labels."""
    random = torch.Generator().manual_seed(step)
    a, b = torch.randn(2, BATCH, WIDTH, generator=random, dtype=torch.float64)
    items, labels = step * 6 + torch.arange(BATCH), torch.randint(0, 3, (BATCH,), generator=random)
    local = BATCH // world.size
    mine = slice(world.rank * local, (world.rank + 1) * local)
    return a[mine], b[mine], items[mine], labels[mine]


def averaged(parameters: Any, world: World) -> None:
    """What a wrapper does."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.copy_(mean_over_ranks(parameter.grad.clone(), world))


def descend(modules: list[nn.Module]) -> list[Tensor]:
    """One step of plain gradient descent; the gradients."""
    found = []
    for parameter in nn.ModuleList(modules).parameters():
        assert parameter.grad is not None
        found.append(parameter.grad.clone())
        parameter.data.sub_(0.5 * parameter.grad)
        parameter.grad = None
    return found


def stage_steps(world: World, case: str) -> list[list[Tensor]]:
    """Loss and gradients of every step as a stage computes them."""
    settings, pairs = ObjectiveSettings.model_validate(CASES[case]), PAIRS_PER_ENTRY.get(case, 1)
    plan = BatchPlan(BATCH // pairs, pairs, 2, world.size)
    objective = build_objective(settings, plan, DIM, world.device, torch.float64, world.rank)
    sides = towers()
    prototypes, logits = draw_prototypes(settings, DIM, 3), make_logits(settings.contrastive)
    own = [each.double() for each in (prototypes, logits) if each is not None]
    modules, found = [sides, *own], []
    for step in range(STEPS):
        a, b, items, labels = batch(step, world)
        local = len(a) // pairs
        entries = torch.arange(world.rank * local, (world.rank + 1) * local).repeat_interleave(pairs)
        rows = [functional.normalize(side(x), dim=1) for side, x in zip(sides, (a, b), strict=True)]
        scale, bias = (None, None) if logits is None else logits()
        embeddings = PairEmbeddings(*rows, None if prototypes is None else prototypes(), scale, bias)
        terms = objective(embeddings, items, entries, step, world, labels=labels)
        terms.total.backward()
        terms = objective.measure(terms, world)
        averaged(nn.ModuleList(modules).parameters(), world)
        found.append([terms.total.detach(), *descend(modules)])
    return found


def make_loss(case: str, **more: Any) -> SwampLoss:
    return SwampLoss(DIM, CASES[case], seed=3, pairs_per_entry=PAIRS_PER_ENTRY.get(case, 1), **more).double()


def loss_steps(world: World, case: str, cut: int | None = None) -> list[list[Tensor]]:
    """The same by `SwampLoss`; after `cut` steps another one goes on from its state."""
    loss, sides, found = make_loss(case), towers(), []
    for step in range(STEPS):
        if step == cut:
            state = copy.deepcopy(loss.state_dict())
            loss = make_loss(case)
            loss.load_state_dict(state)
        a, b, items, labels = batch(step, world)
        entries = items // 2 if "entries" in case else None  # 6 * step is even: pairs that stand together
        rows = [3 * side(x) for side, x in zip(sides, (a, b), strict=True)]
        out = loss(*rows, items, labels, entries)
        out.loss.backward()
        averaged(sides.parameters(), world)
        found.append([out.loss.detach(), *descend([sides, loss])])
    return found


def _all_cases(world: World) -> dict[str, list[Any]]:
    return {
        case: [stage_steps(world, case), loss_steps(world, case), loss_steps(world, case, cut=3)]
        for case in CASES
    }


@pytest.fixture(scope="module")
def on_ranks() -> dict[int, list[dict[str, list[Any]]]]:
    return {1: [_all_cases(alone())], 2: run_on_ranks(_all_cases, 2)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 2])
def test_losses_and_gradients_are_those_of_a_stage(
    size: int, case: str, on_ranks: dict[int, list[dict[str, list[Any]]]]
) -> None:
    for rank in on_ranks[size]:
        expected, found, resumed = rank[case]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert len({float(step[0]) for step in found}) == STEPS
        assert all(torch.equal(x, y) for one, other in zip(found, resumed, strict=True)
                   for x, y in zip(one, other, strict=True))  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_as_one(case: str, on_ranks: dict[int, list[dict[str, list[Any]]]]) -> None:
    ranks, alone_ = [rank[case][1] for rank in on_ranks[2]], on_ranks[1][0][case][1]
    for step, (loss, *gradients) in enumerate(alone_):
        mean = torch.stack([rank[step][0] for rank in ranks]).mean()
        torch.testing.assert_close([mean, *ranks[0][step][1:]], [loss, *gradients], rtol=0, atol=1e-10)
