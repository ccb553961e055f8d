import torch

from swamp_dist import distributed
from swamp_dist.distributed import World
from swamp_dist.records import UserError
from tests.ranks import run_on_ranks


def _gathered_gradient(world: World) -> tuple[torch.Tensor, torch.Tensor]:
    rows = (torch.arange(4, dtype=torch.float64).reshape(2, 2) + 10 * world.rank).requires_grad_()
    everything = distributed.gather_rows(rows, world)
    weights = torch.arange(everything.numel(), dtype=torch.float64).reshape(everything.shape)
    ((everything * weights).sum() * (world.rank + 1)).backward()
    assert rows.grad is not None
    return everything.detach(), rows.grad


def test_gather_rows_is_rank_major_and_sums_gradients_of_all_ranks() -> None:
    results = run_on_ranks(_gathered_gradient, 3)
    for rank, (everything, gradient) in enumerate(results):
        assert torch.equal(everything, results[0][0])
        weights = torch.arange(12, dtype=torch.float64).reshape(6, 2)
        assert torch.equal(gradient, weights[2 * rank : 2 * rank + 2] * (1 + 2 + 3))


def _agreement(world: World) -> tuple[bool, bool]:
    return distributed.agree(world.rank == 1, world), distributed.agree(False, world)


def test_agree_is_true_everywhere_when_true_somewhere() -> None:
    assert run_on_ranks(_agreement, 2) == [(True, False)] * 2


def _failing_main(world: World) -> str:
    def action() -> None:
        raise UserError("the disk is full")

    try:
        distributed.on_main(world, action)
    except UserError as error:
        return str(error)
    return "no error"


def test_an_error_on_the_main_rank_reaches_all_ranks() -> None:
    assert run_on_ranks(_failing_main, 2) == ["the disk is full"] * 2
