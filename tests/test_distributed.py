import math
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swamp_dist import distributed
from swamp_dist.distributed import World
from swamp_dist.errors import UserError
from tests.ranks import run_on_ranks

How = Literal["processes", "threads"]
on_both = pytest.mark.parametrize("how", ["processes", "threads"])


def _agreement(world: World) -> tuple[bool, bool]:
    return distributed.agree(world.rank == 1, world), distributed.agree(False, world)


@on_both
def test_agree_is_true_everywhere_when_true_somewhere(how: How) -> None:
    assert run_on_ranks(_agreement, 2, how=how) == [(True, False)] * 2


def _failing_main(world: World) -> str:
    def action() -> None:
        raise UserError("the disk is full")

    try:
        distributed.on_main(world, action)
    except UserError as error:
        return str(error)
    return "no error"


@on_both
def test_an_error_on_the_main_rank_reaches_all_ranks(how: How) -> None:
    assert run_on_ranks(_failing_main, 2, how=how) == ["the disk is full"] * 2


def _all_that_talks(world: World) -> list[object]:
    mine = torch.tensor([[world.rank, 10.0 - world.rank]])
    found = [
        distributed.gather(mine, world),
        distributed.start_gather(mine, world).wait(),
        torch.cat(distributed.gather_to_main(mine, world) or [mine]),
        distributed.sum_over_ranks(mine.clone(), world),
        distributed.max_over_ranks(mine.clone(), world),
        distributed.mean_over_ranks(mine.clone(), world),
    ]
    distributed.barrier(world)
    answer = distributed.on_main(world, lambda: f"of rank {world.rank}")
    return [*(x.tolist() for x in found), distributed.gather_objects({"rank": world.rank}, world), answer]


@on_both
def test_every_rank_gets_what_it_should(how: How) -> None:
    rows = [[0.0, 10.0], [1.0, 9.0], [2.0, 8.0]]
    for rank, found in enumerate(run_on_ranks(_all_that_talks, 3, how=how)):
        to_main = rows if rank == 0 else rows[rank : rank + 1]
        reduced = [[[3.0, 27.0]], [[2.0, 10.0]], [[1.0, 9.0]]]
        objects = [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert found == [rows, rows, to_main, *reduced, objects, "of rank 0"]


Best = list[tuple[float, int]]
_NUMBERS = st.floats(width=32) | st.sampled_from([math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0])


def _literal_best(of_ranks: list[Best]) -> Best:
    """Entry by entry the largest value and its lowest index; nan is the largest of all."""
    found = []
    for column in zip(*of_ranks, strict=True):
        nan = [index for value, index in column if math.isnan(value)]
        largest = max(value for value, _ in column)
        equals = nan or [index for value, index in column if value == largest]
        found.append((math.nan if nan else largest + 0.0, min(equals)))
    return found


def _best(world: World, of_ranks: list[Best], dtype: torch.dtype) -> Best:
    values, index = zip(*of_ranks[world.rank], strict=True)
    best, lowest = distributed.best_over_ranks(torch.tensor(values, dtype=dtype), torch.tensor(index), world)
    return list(zip((best + 0.0).tolist(), lowest.tolist(), strict=True))


@given(st.lists(st.lists(_NUMBERS, min_size=3, max_size=3), min_size=1, max_size=4), st.data())
def test_the_best_over_ranks_is_the_largest_and_of_equals_the_lowest(
    values: list[list[float]], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(range(len(values))))
    of_ranks = [[(x, rank) for x in row] for rank, row in zip(shuffled, values, strict=True)]
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    for found in run_on_ranks(_best, len(values), of_ranks, dtype, how="threads"):
        assert str(found) == str(_literal_best(of_ranks))


def test_the_best_over_ranks_is_the_same_over_gloo() -> None:
    nan, inf = math.nan, math.inf
    columns = [(nan, 1.0, inf), (1.0, nan, nan), (2.0, 2.0, 2.0), (-inf, -inf, -inf), (-3.0, -2.0, -5.0)]
    columns += [(-0.0, 0.0, -1.0), (0.25, 0.5, 0.5)]
    of_ranks = [[(row[rank], (7 * rank + 2) % 3) for row in columns] for rank in range(3)]
    for dtype in (torch.float32, torch.float64):
        for found in run_on_ranks(_best, 3, of_ranks, dtype):
            assert str(found) == str(_literal_best(of_ranks))
