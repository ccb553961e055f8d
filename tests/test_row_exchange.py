from typing import Literal

import pytest
import torch
from torch import Tensor

from swamp_dist.distributed import World, alone
from swamp_dist.row_exchange import fetch_rows, gather_rows
from tests.ranks import run_on_ranks

How = Literal["processes", "threads"]
on_both = pytest.mark.parametrize("how", ["processes", "threads"])


def _gathered_gradient(world: World) -> tuple[Tensor, Tensor]:
    rows = (torch.arange(4, dtype=torch.float64).reshape(2, 2) + 10 * world.rank).requires_grad_()
    everything = gather_rows(rows, world)
    weights = torch.arange(everything.numel(), dtype=torch.float64).reshape(everything.shape)
    ((everything * weights).sum() * (world.rank + 1)).backward()
    assert rows.grad is not None
    return everything.detach(), rows.grad


@on_both
def test_gather_rows_is_rank_major_and_sums_gradients_of_all_ranks(how: How) -> None:
    results = run_on_ranks(_gathered_gradient, 3, how=how)
    for rank, (everything, gradient) in enumerate(results):
        assert torch.equal(everything, results[0][0])
        weights = torch.arange(12, dtype=torch.float64).reshape(6, 2)
        assert torch.equal(gradient, weights[2 * rank : 2 * rank + 2] * (1 + 2 + 3))


Fetched = dict[str, tuple[Tensor, Tensor]]
"""Rows that came, and the gradient of my rows, by name of the way."""
COUNTS = (5, 0, 9, 2)
"""Rows that each rank asks for."""


def _fetched(world: World, count: int) -> Fetched:
    """`count` rows on each rank, of which ranks ask for unequally many, some of them several times."""
    found = {}
    random = torch.Generator().manual_seed(world.rank)
    index = torch.randint(count * world.size, (COUNTS[world.rank % 4],), generator=random)
    weights = torch.randn(len(index), 3, generator=random, dtype=torch.float64)
    for name in ("fetched", "gathered"):
        rows = (torch.arange(3.0 * count, dtype=torch.float64).reshape(-1, 3) + 100 * world.rank).sqrt()
        rows.requires_grad_()
        came = fetch_rows(rows, index, world) if name == "fetched" else gather_rows(rows, world)[index]
        (came * came * weights).sum().backward()
        assert rows.grad is not None
        found[name] = came.detach(), rows.grad
    return found


@on_both
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_fetched_rows_are_those_of_a_gather_with_the_same_gradient(size: int, how: How) -> None:
    for found in run_on_ranks(_fetched, size, 6, how=how):
        torch.testing.assert_close(found["fetched"], found["gathered"], rtol=0, atol=1e-12)


def test_rows_are_fetched_from_many_ranks() -> None:
    results = run_on_ranks(_fetched, 64, 2, how="threads")
    for found in results:
        torch.testing.assert_close(found["fetched"], found["gathered"], rtol=0, atol=1e-12)
    assert sum(len(found["fetched"][0]) for found in results) == 16 * sum(COUNTS)


def _sum_of_gradients(world: World, index: Tensor, gradients: Tensor, threads: int) -> Tensor:
    """Gradient (B, D) of all rows, of which my part of the batch asks for `index`."""
    local = len(index) // world.size
    mine = slice(world.rank * local, (world.rank + 1) * local)
    rows = torch.zeros(local, gradients.shape[1], requires_grad=True)
    torch.set_num_threads(threads)
    fetch_rows(rows, index[mine], world).backward(gradients[mine])
    assert rows.grad is not None
    return rows.grad


def test_gradients_are_added_in_the_order_of_the_batch_on_any_number_of_ranks() -> None:
    random = torch.Generator().manual_seed(0)
    index = torch.randint(6, (240,), generator=random) ** 2  # a few rows that everyone wants
    gradients = torch.randn(240, 300, generator=random).exp()
    expected = torch.zeros(240, 300)
    for place, gradient in zip(index.tolist(), gradients, strict=True):
        expected[place] += gradient
    assert not torch.equal(expected, torch.zeros(240, 300).index_add_(0, index.flip(0), gradients.flip(0)))
    before = torch.get_num_threads()
    assert torch.equal(_sum_of_gradients(alone(), index, gradients, 4), expected)
    torch.set_num_threads(before)
    for size in (2, 3, 4):
        found = torch.cat(run_on_ranks(_sum_of_gradients, size, index, gradients, 2))
        assert torch.equal(found, expected), size
