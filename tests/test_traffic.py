from __future__ import annotations

import pytest
import torch

from swamp_dist import distributed
from swamp_dist.row_exchange import fetch_rows, gather_rows
from tests.traffic import Traffic, claim_world


@pytest.mark.parametrize("rank", [0, 1023])
def test_kinds_and_bytes_are_those_of_the_claimed_world(rank: int) -> None:
    with claim_world(1024, rank) as world, Traffic() as traffic:
        rows = torch.ones(2, 3, requires_grad=True)
        gather_rows(rows, world).sum().backward()
        distributed.sum_over_ranks(torch.ones(5, dtype=torch.float64), world)
        distributed.max_over_ranks(torch.ones(5), world)
        distributed.gather_to_main(rows.detach(), world)
        distributed.best_over_ranks(torch.ones(5), torch.arange(5), world)
        fetch_rows(rows, torch.tensor([5, 2047, 2047]), world).sum().backward()
        distributed.barrier(world)
    assert (world.rank, world.size) == (rank, 1024)
    assert traffic.calls == [
        ("all_gather", 24),
        ("reduce_scatter", 1024 * 24),
        ("all_reduce", 40),
        ("all_reduce", 20),
        ("gather", 24),
        ("all_reduce", 20),
        ("all_reduce", 40),
        ("all_to_all", 1024 * 8),
        ("all_to_all", 3 * 8),
        ("all_to_all", 3 * 12),
        ("all_to_all", 3 * 12),
        ("barrier", 0),
    ]
    assert traffic.counts["all_reduce"] == 4
    assert traffic.payloads["all_reduce"] == 120


def test_what_is_sent_before_and_after_is_not_counted() -> None:
    with claim_world(8) as world:
        distributed.agree(True, world)
        with Traffic() as traffic:
            assert (
                distributed.on_main(world, lambda: "plain values travel as bytes")
                == "plain values travel as bytes"
            )
        distributed.agree(True, world)
    assert set(traffic.counts) == {"broadcast"}
    with claim_world(2) as world, Traffic() as traffic:
        assert len(distributed.gather_objects("x", world)) == 2
    assert set(traffic.counts) == {"all_gather"}


def test_an_unknown_collective_is_refused() -> None:
    with claim_world(8), Traffic(), pytest.raises(NotImplementedError, match="scatter_ is not counted"):
        torch.distributed.scatter(torch.ones(2), [torch.ones(2)] * 8)
