import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.distributed import World, alone
from swamp_dist.objective.solve.sinkhorn import SinkhornSolution, solve
from swamp_dist.objective.targets import (
    prototype_usage,
    soft_cross_entropy,
    swapped_targets,
    target_figures,
)
from swamp_dist.records import SoftTargets
from tests.ranks import run_on_ranks


def _scores() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    a, b = torch.rand(2, 8, 5, dtype=torch.float64)
    return a, b


def _targets(a: Tensor, b: Tensor) -> SoftTargets:
    zero = a.new_zeros(())
    return SoftTargets(a, b, zero, 3, 0)


def test_targets_are_swapped() -> None:
    a, b = _scores()
    solution = solve(torch.stack((a, b)), 8, 0.1, iterations=20)
    targets = swapped_targets(a, b, solution, 0.1)
    torch.testing.assert_close(targets.a, torch.softmax(b / 0.1 + solution.log_v[1], dim=1))
    torch.testing.assert_close(targets.b, torch.softmax(a / 0.1 + solution.log_v[0], dim=1))
    torch.testing.assert_close(targets.a.sum(dim=1), torch.ones(8, dtype=torch.float64))


def test_hard_targets_keep_the_arg_max() -> None:
    a, b = _scores()
    solution = SinkhornSolution(torch.zeros(2, 5, dtype=torch.float64), a.new_zeros(()), 1, 0, 0)
    targets = swapped_targets(a, b, solution, 0.1, "hard")
    assert torch.equal(targets.a, functional.one_hot(b.argmax(dim=1), 5).double())
    assert torch.equal(targets.b, functional.one_hot(a.argmax(dim=1), 5).double())


def test_hard_targets_of_equal_shares_take_the_higher_score() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.2]], dtype=torch.float64)
    log_v = torch.tensor([0.8, 0.0, 0.4, -5.0], dtype=torch.float64) / 0.0005  # shares 1/3, 1/3, 1/3, 0
    rounding = 1e-13 * torch.tensor([[1.0, 0, 2, 0], [2, 0, 1, 0]], dtype=torch.float64)
    solution = SinkhornSolution(log_v + rounding, scores.new_zeros(()), 1, 0, 0)
    targets = swapped_targets(scores, scores, solution, 0.0005, "hard")
    assert targets.a.tolist() == targets.b.tolist() == [[0, 1, 0, 0]]


def test_soft_cross_entropy_is_equation_4() -> None:
    a, b = _scores()
    q = torch.softmax(10 * torch.stack(_scores()).flip(0), dim=2)
    expected = 0.0
    for scores, target in ((a, q[0]), (b, q[1])):
        for row, t in zip(scores.tolist(), target.tolist(), strict=True):
            norm = math.log(sum(math.exp(s / 0.25) for s in row))
            expected += sum(-p * (s / 0.25 - norm) for p, s in zip(t, row, strict=True)) / 8
    assert float(soft_cross_entropy(a, b, _targets(q[0], q[1]), 0.25)) == pytest.approx(expected, abs=1e-13)


def test_figures_of_uniform_and_of_collapsed_targets() -> None:
    uniform, one = torch.full((6, 4), 0.25), functional.one_hot(torch.tensor([0] * 6), 4).float()
    same, apart = torch.zeros(2, 6), torch.tensor([[0] * 6, [1] * 6])
    figures = target_figures(_targets(uniform, uniform), same)
    torch.testing.assert_close(figures["swamp/target_entropy"], figures["swamp/target_entropy_max"])
    figures = target_figures(_targets(one, one), apart)
    assert figures["swamp/target_entropy"] == 0
    assert figures["swamp/agreement"] == 0
    assert target_figures(_targets(one, one), same)["swamp/agreement"] == 1


def _usage(world: World) -> list[int]:
    counts: list[int] = prototype_usage(torch.tensor([[world.rank, 3], [world.rank, 3]]), 5, world).tolist()
    return counts


def test_usage_counts_the_targets_of_the_global_batch() -> None:
    assert _usage(alone()) == [2, 0, 0, 2, 0]
    assert run_on_ranks(_usage, 2) == [[2, 2, 0, 4, 0]] * 2
