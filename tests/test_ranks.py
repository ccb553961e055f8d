"""The helpers that run tests on many ranks: what goes wrong on one rank is told, and keeps nobody waiting."""

from __future__ import annotations

import threading
import time
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from swamp_dist import distributed
from swamp_dist.distributed import World
from swamp_dist.row_exchange import gather_rows
from tests import thread_ranks
from tests.ranks import run_on_ranks


def _fail_on_rank_2(world: World) -> None:
    if world.rank == 2:
        raise RuntimeError("no luck")
    distributed.barrier(world)


@pytest.mark.parametrize("how", ["processes", "threads"])
def test_a_rank_that_fails_is_named_and_keeps_nobody_waiting(how: Literal["processes", "threads"]) -> None:
    with pytest.raises(AssertionError, match=r"rank 2 failed:\n(.|\n)*RuntimeError: no luck"):
        run_on_ranks(_fail_on_rank_2, 3, how=how)


def _ignore_errors(world: World) -> None:
    """Fails on rank 1 only; the others try to live on."""
    if world.rank == 1:
        raise ValueError("no luck")
    for _ in range(3):
        try:
            distributed.barrier(world)
        except Exception:
            raise AssertionError("the end of a run looks like an error of this rank") from None


class _Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise ValueError("no luck backward")


def _fail_in_backward(world: World) -> None:
    rows = torch.ones(2, requires_grad=True)
    everything = gather_rows(rows, world)
    loss = everything.sum() if world.rank != 5 else _Failing.apply(everything).sum()  # type: ignore[no-untyped-call]
    loss.backward()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_ignore_errors, r"rank 1 failed:\n(.|\n)*ValueError: no luck"),
        (_fail_in_backward, r"rank 5 failed:\n(.|\n)*ValueError: no luck backward"),
    ],
)
def test_threads_end_wherever_they_wait(function: Any, message: str) -> None:
    before = threading.active_count()
    with pytest.raises(AssertionError, match=message):
        run_on_ranks(function, 8, how="threads")
    assert threading.active_count() == before


def _call_another(world: World) -> None:
    if world.rank == 3:
        distributed.max_over_ranks(torch.ones(2), world)
    else:
        distributed.sum_over_ranks(torch.ones(2), world)


def _send_more(world: World) -> None:
    distributed.gather(torch.ones(3 if world.rank == 3 else 2), world)


def _end_early(world: World) -> None:
    if world.rank != 3:
        distributed.barrier(world)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_call_another, r"rank 0 calls all_reduce SUM of \(2,\).*; rank 3 calls all_reduce MAX of \(2,\)"),
        (_send_more, r"rank 0 calls all_gather_single of \(2,\).*; rank 3 calls all_gather_single of \(3,\)"),
        (_end_early, r"rank 0 calls barrier.*; rank 3 calls nothing: it has ended"),
    ],
)
def test_ranks_that_make_different_calls_are_named(function: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        run_on_ranks(function, 4, how="threads")


def _come_late(world: World, released: threading.Event) -> None:
    if world.rank == 1:
        released.wait()
    distributed.barrier(world)


def test_time_is_limited_and_a_late_rank_reaches_into_no_later_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_ranks, "_LAST_SECONDS", 0.1)
    released = threading.Event()
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"ranks \[1\] did not answer within 5 s"):
        run_on_ranks(_come_late, 3, released, how="threads", timeout=5)
    assert time.monotonic() - started < 60
    released.set()
    assert run_on_ranks(_sum, 3, how="threads") == [3.0, 3.0, 3.0]


def _sum(world: World) -> float:
    return float(distributed.sum_over_ranks(torch.tensor(float(world.rank)), world))


def test_a_run_leaves_the_process_as_it_was() -> None:
    threads = torch.get_num_threads()
    assert run_on_ranks(_sum, 20, how="threads") == [190.0] * 20
    assert torch.get_num_threads() == threads
    assert not dist.is_initialized()
