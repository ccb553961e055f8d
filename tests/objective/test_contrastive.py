import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist import distributed
from swamp_dist.distributed import World
from swamp_dist.objective.contrastive import (
    entry_weights,
    hardest_negative,
    hardest_negatives,
    mean_over_negatives,
    similarities,
)
from tests.ranks import run_on_ranks

MARGIN = 0.2


def _pairs(count: int, dim: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(count)
    a, b = torch.randn(2, count, dim, dtype=torch.float64)
    return functional.normalize(a, dim=1), functional.normalize(b, dim=1)


def _whole(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    return (a, b, a, b)


def _hinge(x: float) -> float:
    return max(0.0, x)


def _naive_mean(a: Tensor, b: Tensor, margin: float, weight: Tensor) -> float:
    """(1/N^2) sum_ij W_ij ([m + x_ij - x_ii]+ + [m + x_ij - x_jj]+), term by term."""
    x, n, total = (a @ b.t()).tolist(), len(a), 0.0
    for i in range(n):
        for j in range(n):
            hinges = _hinge(margin + x[i][j] - x[i][i]) + _hinge(margin + x[i][j] - x[j][j])
            total += float(weight[i, j]) * hinges
    return total / n**2


def _naive_hardest(a: Tensor, b: Tensor, margin: float) -> float:
    x, n, total = (a @ b.t()).tolist(), len(a), 0.0
    for i in range(n):
        total += _hinge(margin - x[i][i] + max(x[i][j] for j in range(n) if j != i))
        total += _hinge(margin - x[i][i] + max(x[j][i] for j in range(n) if j != i))
    return total


def test_mean_over_negatives_is_the_published_double_sum() -> None:
    a, b = _pairs(9)
    loss = mean_over_negatives(similarities(*_whole(a, b), 0), MARGIN)
    assert float(loss) == pytest.approx(_naive_mean(a, b, MARGIN, torch.ones(9, 9)), abs=1e-14)


def test_the_diagonal_is_a_floor_of_two_margins_over_the_batch() -> None:
    eye = torch.eye(6, dtype=torch.float64)
    assert float(mean_over_negatives(similarities(*_whole(eye, eye), 0), MARGIN)) == pytest.approx(
        2 * MARGIN / 6
    )


@pytest.mark.parametrize(("entries", "pairs", "share"), [(32, 64, 0.5), (4, 3, 0.3), (2, 5, 0.9)])
def test_entry_weights_have_mean_one_and_the_share_inside(entries: int, pairs: int, share: float) -> None:
    position = torch.arange(entries).repeat_interleave(pairs)
    weights = entry_weights(position, position, entries, share, torch.float64)
    same = position[:, None] == position[None]
    assert float(weights.mean()) == pytest.approx(1.0)
    assert float(weights[same].sum() / weights.sum()) == pytest.approx(share)


def test_entry_weights_of_the_howto100m_batch() -> None:
    position = torch.arange(32).repeat_interleave(64)
    weights = entry_weights(position[:64], position, 32, 0.5)
    assert weights[0, 0] == 16
    assert float(weights[0, -1]) == pytest.approx(0.516129, abs=1e-6)


def test_weighted_mean_is_the_naive_weighted_sum() -> None:
    a, b = _pairs(12)
    position = torch.arange(4).repeat_interleave(3)
    weights = entry_weights(position, position, 4, 0.3, torch.float64)
    loss = mean_over_negatives(similarities(*_whole(a, b), 0), MARGIN, weights)
    assert float(loss) == pytest.approx(_naive_mean(a, b, MARGIN, weights), abs=1e-14)


def test_hardest_negative_is_equation_1() -> None:
    a, b = _pairs(10)
    found = similarities(*_whole(a, b), 0)
    assert float(hardest_negative(found, MARGIN, "sum")) == pytest.approx(
        _naive_hardest(a, b, MARGIN), abs=1e-13
    )
    torch.testing.assert_close(hardest_negative(found, MARGIN, "sum"), 10 * hardest_negative(found, MARGIN))


def test_ties_go_to_the_lowest_index() -> None:
    a = functional.normalize(torch.ones(4, 3, dtype=torch.float64), dim=1).requires_grad_()
    b = a.detach().clone()
    columns = b.clone().requires_grad_()
    hardest_negatives(similarities(a, b, a.detach(), columns, 0))[0].sum().backward()
    assert columns.grad is not None
    assert torch.nonzero(columns.grad.abs().sum(dim=1)).flatten().tolist() == [
        0,
        1,
    ]  # row 0 may not take itself


def _gradients(world: World, mode: str) -> tuple[Tensor, Tensor]:
    """Mean over ranks of this rank's loss, and the averaged gradient of a shared linear map."""
    a, b = _pairs(12)
    weight = torch.linspace(-1, 1, 25, dtype=torch.float64).reshape(5, 5).requires_grad_()
    local = 12 // world.size
    mine = slice(world.rank * local, (world.rank + 1) * local)
    my_a, my_b = a[mine] @ weight, b[mine] @ weight.t()
    all_a, all_b = distributed.gather_rows(my_a, world), distributed.gather_rows(my_b, world)
    found = similarities(my_a, my_b, all_a, all_b, mine.start)
    if mode == "entries":
        position = torch.arange(4).repeat_interleave(3)
        loss = mean_over_negatives(found, MARGIN, entry_weights(position[mine], position, 4, 0.5, a.dtype))
    elif mode == "all":
        loss = mean_over_negatives(found, MARGIN)
    else:
        loss = hardest_negative(found, MARGIN, "sum" if mode == "sum" else "mean")
    loss.backward()
    assert weight.grad is not None
    return distributed.mean_over_ranks(loss.detach().clone(), world), distributed.mean_over_ranks(
        weight.grad, world
    )


def _all_gradients(world: World) -> dict[str, tuple[Tensor, Tensor]]:
    return {mode: _gradients(world, mode) for mode in ("all", "entries", "mean", "sum")}


@pytest.mark.parametrize("size", [2, 4])
def test_averaged_gradients_over_ranks_are_those_of_one_process(size: int) -> None:
    expected = _all_gradients(distributed.alone())
    for result in run_on_ranks(_all_gradients, size):
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-13)
        assert all(float(gradient.abs().max()) > 1e-3 for _, gradient in result.values())
