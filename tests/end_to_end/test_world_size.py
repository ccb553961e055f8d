"""The numbers of a training do not depend on how many ranks ran it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.config import ContrastiveSettings, MlpSettings, ModelSettings, ObjectiveSettings
from swamp_dist.distributed import World, alone, sum_over_ranks
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.objective.objective import Objective, build_objective
from swamp_dist.objective.terms import swamp as swamp_module
from swamp_dist.records import BatchPlan, LossTerms, PairEmbeddings, SoftTargets
from swamp_dist.stage.build import logit_start
from tests.ranks import run_on_ranks

PAIRS, INPUT, DIM, PROTOTYPES, STEPS = 24, 10, 6, 20, 50
MODEL = ModelSettings(embedding_dim=DIM, a=MlpSettings(hidden=(12,)), b=MlpSettings(hidden=(12,)))
Curve = tuple[Tensor, Tensor]
"""Mean loss of each step, and the final weights."""


def _swamp(epsilon: float, *, assignment: str = "soft", **queue: Any) -> dict[str, Any]:
    return {
        "weight": 0.25,
        "prototypes": PROTOTYPES,
        "temperature": max(0.1, 2 * epsilon),
        "eta": max(0.1, 2 * epsilon) / epsilon,
        "assignment": assignment,
        "queue": {"size": 61, "start_when_filled": 0, "solve": "split"} | queue,
        "sinkhorn": {"iterations": 3, "warm_start": False},
    }


def _warm(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"sinkhorn": {"iterations": 3, "warm_start": True}}


Case = tuple[int, dict[str, Any], dict[str, Any]]
"""Pairs per entry, contrastive settings, SwAMP settings."""
OFF = {"weight": 0}
HARDEST = {"form": "hardest", "margin": 0.2}
CASES: dict[str, Case] = {
    "all, no SwAMP": (1, {}, OFF),
    "all with entry weights, warm, 0.05": (3, {"in_entry_share": 0.5}, _warm(_swamp(0.05))),
    "hardest mean, cold, 0.0005": (1, HARDEST, _swamp(0.0005)),
    "hardest sum, counts the batch not, 0.005": (
        1, HARDEST | {"reduction": "sum"}, _warm(_swamp(0.005, counts_batch=False)),
    ),
    "hardest after all, in blocks, 0.05": (
        1, HARDEST | {"all_negatives_steps": 20, "chunk": 7}, _swamp(0.05),
    ),
    "all, hard targets, 0.05": (1, {}, _swamp(0.05, assignment="hard")),
    "all, hard targets, warm, 0.0005": (1, {}, _warm(_swamp(0.0005, assignment="hard"))),
    "all, warm, counts the batch not, 0.0005": (1, {}, _warm(_swamp(0.0005, counts_batch=False))),
    "SwAMP alone, cold, 0.05": (1, OFF, _swamp(0.05)),
    "SwAMP alone, no queue, 0.0005": (1, OFF, _swamp(0.0005, size=0, counts_batch=False)),
    "late start, whole, 0.005": (1, {}, _swamp(0.005, start_when_filled=50, solve="whole")),
    "infonce in blocks, learned, 0.05": (
        1, {"form": "infonce", "chunk": 7, "learn_temperature": True}, _warm(_swamp(0.05)),
    ),
    "sigmoid of entries, learned": (
        3, {"form": "sigmoid", "positives": "entry", "learn_temperature": True}, OFF,
    ),
    "tolerance and default start, 0.05": (1, {}, _swamp(0.05) | {"sinkhorn": {"max_iterations": 10}}),
}  # fmt: skip
STEADY, DRIFTING = "all with entry weights, warm, 0.05", "all, warm, counts the batch not, 0.0005"
FLOAT32_EPSILONS = (0.05, 0.005, 0.0005)


def _objective(case: Case, world: World, dtype: torch.dtype) -> Objective:
    pairs_per_entry, contrastive, swamp = case
    plan = BatchPlan(PAIRS // pairs_per_entry, pairs_per_entry, 4, world.size)
    settings = ObjectiveSettings.model_validate({"contrastive": contrastive, "swamp": swamp})
    return build_objective(settings, plan, DIM, world.device, dtype, world.rank)


def _model(case: Case, dtype: torch.dtype) -> DualEncoder:
    prototypes = None if case[2] is OFF else PROTOTYPES
    logits = logit_start(ContrastiveSettings.model_validate(case[1]))
    return build_dual_encoder(MODEL, (INPUT,), (INPUT,), prototypes, True, seed=1, logits=logits).to(dtype)


def _terms(model: DualEncoder, objective: Objective, step: int, world: World) -> LossTerms:
    """Loss of this rank's share of global batch `step`: noisy views of one latent vector a pair."""
    random = torch.Generator().manual_seed(step)
    latent = torch.randn(PAIRS, INPUT, generator=random, dtype=torch.float64)
    noise = torch.randn(2, PAIRS, INPUT, generator=random, dtype=torch.float64)
    x = (latent + 0.3 * noise).to(next(model.parameters()).dtype)
    local = PAIRS // world.size
    mine = slice(world.rank * local, (world.rank + 1) * local)
    positions = torch.arange(PAIRS) // objective.plan.pairs_per_entry
    embeddings = model(x[0, mine], x[1, mine])
    assert isinstance(embeddings, PairEmbeddings)
    return objective(embeddings, step * PAIRS + torch.arange(PAIRS)[mine], positions[mine], step, world)


def _average(model: DualEncoder, loss: Tensor, world: World) -> Tensor:
    """Backward; then loss and gradients are means over ranks, as under DeepSpeed. The mean loss."""
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([loss.detach().reshape(1), *(g.flatten() for g in gradients)])
    flat = sum_over_ranks(flat, world) / world.size
    sizes = [g.numel() for g in gradients]
    for gradient, mean in zip(gradients, flat[1:].split(sizes), strict=True):
        gradient.copy_(mean.reshape(gradient.shape))
    return flat[0]


def _flat(tensors: Any) -> Tensor:
    return torch.cat([x.detach().flatten() for x in tensors])


def _train(case: Case, world: World, dtype: torch.dtype = torch.float64) -> Curve:
    model, objective = _model(case, dtype), _objective(case, world, dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        losses.append(_average(model, _terms(model, objective, step, world).total, world))
        optimizer.step()
    return torch.stack(losses), _flat(model.parameters())


def _fixed_targets(world: World) -> Any:
    """Stands in for `swapped_targets`: the same random targets of the global batch on any world size."""
    q = torch.softmax(
        4 * torch.randn(2, PAIRS, PROTOTYPES, generator=torch.Generator().manual_seed(0)), dim=2
    )
    local = PAIRS // world.size
    mine = slice(world.rank * local, (world.rank + 1) * local)

    def targets(*args: Any, **how: Any) -> SoftTargets:
        return SoftTargets(q[0, mine], q[1, mine], torch.zeros(()), 3, 0)

    return targets


def _one_float32_step(epsilon: float, world: World) -> Curve:
    """Loss and gradient of one step on a filled queue."""
    case: Case = (1, {}, _swamp(epsilon))
    model, objective = _model(case, torch.float32), _objective(case, world, torch.float32)
    queue = objective.queue
    assert queue is not None
    rows = torch.randn(2, queue.capacity, DIM, generator=torch.Generator().manual_seed(7))
    queue.push(*functional.normalize(rows, dim=2), torch.arange(queue.capacity), 0)
    solved = swamp_module.swapped_targets
    if epsilon < 0.05:
        swamp_module.swapped_targets = _fixed_targets(world)
    try:
        loss = _average(model, _terms(model, objective, 0, world).total, world)
    finally:
        swamp_module.swapped_targets = solved
    return loss, _flat(p.grad for p in model.parameters())


def _everything(world: World) -> tuple[dict[str, Curve], dict[str, Curve], dict[float, Curve]]:
    """Float64 trainings, float32 trainings and single float32 steps of this rank."""
    torch.set_num_threads(1)
    return (
        {name: _train(case, world) for name, case in CASES.items()},
        {name: _train(CASES[name], world, torch.float32) for name in (STEADY, DRIFTING)},
        {epsilon: _one_float32_step(epsilon, world) for epsilon in FLOAT32_EPSILONS},
    )


@pytest.fixture(scope="module")
def one_process() -> Iterator[Any]:
    threads = torch.get_num_threads()
    yield _everything(alone())
    torch.set_num_threads(threads)


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_numbers_do_not_depend_on_the_world_size(
    size: int, one_process: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    exact, rounded, steps = one_process
    for found_exact, found_rounded, found_steps in run_on_ranks(_everything, size):
        for name, (curve, weights) in exact.items():
            other_curve, other_weights = found_exact[name]
            torch.testing.assert_close(other_curve, curve, rtol=0, atol=1e-10, msg=name)
            torch.testing.assert_close(other_weights, weights, rtol=0, atol=1e-10, msg=name)
        for epsilon, (loss, gradient) in steps.items():
            other_loss, other_gradient = found_steps[epsilon]
            torch.testing.assert_close(other_loss, loss, rtol=1e-6, atol=1e-6, msg=str(epsilon))
            torch.testing.assert_close(other_gradient, gradient, rtol=0, atol=1e-5, msg=str(epsilon))
        torch.testing.assert_close(found_rounded[STEADY][0], rounded[STEADY][0], rtol=1e-5, atol=1e-5)
    drift = float((found_rounded[DRIFTING][0] - rounded[DRIFTING][0]).abs().max())
    with capsys.disabled():
        sys.stdout.write(
            f"\nfloat32 loss drift over {STEPS} steps at epsilon 0.0005, {size} ranks: {drift:.1e}\n"
        )


def test_every_training_learns_and_no_two_are_the_same(one_process: Any) -> None:
    """Equality above means something only if the trainings move, and differ."""
    curves = one_process[0]
    for name, (curve, weights) in curves.items():
        assert curve.isfinite().all(), name
        assert float(curve[-10:].mean()) != pytest.approx(float(curve[:10].mean()), abs=1e-4), name
        assert weights.isfinite().all(), name
    finals = [tuple(curve.tolist()) for curve, _ in curves.values()]
    assert len(set(finals)) == len(finals)
