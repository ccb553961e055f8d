"""The objective of scores of sets: the same losses and gradients on any number of ranks."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from swamp_dist.config import CrossAttentionSettings, ObjectiveSettings
from swamp_dist.distributed import World, alone, mean_over_ranks, sum_over_ranks
from swamp_dist.model.cross_attention import pair_scores
from swamp_dist.objective.set_objective import SetObjective
from swamp_dist.records import BatchPlan, LossTerms, PairSets
from tests.ranks import run_on_ranks

PAIRS, D = 12, 5
SCORE = partial(pair_scores, rules=CrossAttentionSettings(queries="b", softmax_scale=4.0))


def build(world_size: int, **contrastive: Any) -> SetObjective:
    tree = {"contrastive": {"form": "hardest", "margin": 0.2} | contrastive, "swamp": {"weight": 0}}
    return SetObjective(ObjectiveSettings.model_validate(tree), BatchPlan(PAIRS, 1, PAIRS, world_size), SCORE)


def batch(world: World) -> PairSets:
    """Mine of a batch; every rank pads to its own longest sets."""
    random = torch.Generator().manual_seed(3)  # the global one belongs to all threads
    lengths = torch.randint(1, 5, (2, PAIRS), generator=random)
    whole = torch.randn(2, PAIRS, 4, D, dtype=torch.float64, generator=random)
    local = PAIRS // world.size
    mine = slice(world.rank * local, (world.rank + 1) * local)
    parts: list[Tensor] = []
    for values, counts in zip(whole, lengths, strict=True):
        longest = int(counts[mine].max())
        parts.append(torch.nn.functional.normalize(values[mine, :longest], dim=2).requires_grad_())
        parts.append(torch.arange(longest) < counts[mine, None])
    return PairSets(*parts)


def call(objective: SetObjective, sets: PairSets, world: World, step: int = 5) -> LossTerms:
    local = PAIRS // world.size
    ids = torch.arange(world.rank * local, (world.rank + 1) * local)
    return objective(sets, ids, ids // 2, step, world, None, ids // 3)


def found(world: World, settings: dict[str, Any]) -> list[float]:
    """Loss, figures, and sums of gradients, each a number that no world size may change."""
    objective, sets = build(world.size, **settings), batch(world)
    terms = call(objective, sets, world)
    gradients = torch.autograd.grad(terms.total, [sets.a, sets.b])
    weights = [torch.arange(1, D + 1, dtype=torch.float64), torch.arange(D, dtype=torch.float64).cos()]
    pulled = torch.stack([(g * w).sum() for g in gradients for w in weights])
    squares = torch.stack([g.square().sum() for g in gradients])
    figures = torch.stack([terms.total.detach(), *terms.diagnostics.values()])
    sums = sum_over_ranks(pulled, world) / world.size, sum_over_ranks(squares, world) / world.size**2
    return [float(x) for x in torch.cat([mean_over_ranks(figures, world), *sums])]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"reduction": "sum", "weight": 0.5},
        {"form": "all"},
        {"positives": "entry"},
        {"positives": "class"},
    ],
    ids=lambda settings: ",".join(settings) or "hardest",
)
def test_ranks_do_not_change_loss_or_gradients(settings: dict[str, Any]) -> None:
    expected = found(alone(), settings)
    for size in (2, 3):
        for one in run_on_ranks(found, size, settings, how="threads"):
            assert one == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_processes_agree_too() -> None:
    expected = found(alone(), {})
    for one in run_on_ranks(found, 2, {}):
        assert one == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_the_start_takes_all_negatives_and_a_sum_is_the_batch_times_the_mean() -> None:
    world = alone()
    sets = batch(world)
    warm = call(build(1, all_negatives_steps=6), sets, world).total
    assert torch.equal(warm, call(build(1, form="all"), sets, world).total)
    summed = call(build(1, reduction="sum"), sets, world).total
    torch.testing.assert_close(summed, PAIRS * call(build(1), sets, world).total)
