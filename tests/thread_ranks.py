"""Ranks as threads of one process, with real collectives: what `tests.ranks` runs with `how="threads"`."""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any, NoReturn
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.multi_threaded_pg import (
    _install_threaded_pg,
    _uninstall_threaded_pg,
)

from swamp_dist.distributed import World, leave

_REDUCTIONS = {
    dist.ReduceOp.RedOpType.SUM: torch.add,
    dist.ReduceOp.RedOpType.MAX: torch.maximum,
    dist.ReduceOp.RedOpType.MIN: torch.minimum,
}
_LAST_SECONDS = 5.0
"""How long ranks may take to end once a run has failed."""


class _Aborted(BaseException):
    """Ends a rank whose collective cannot complete. No `except Exception` of a test may keep it."""


@dataclass(frozen=True)
class _Call:
    """One rank's part in a collective."""

    what: str
    """Kind, operation and shape: equal on all ranks, or the program is wrong."""
    sent: Tensor
    received: list[Tensor]
    move: Callable[[list[Tensor], list[list[Tensor]]], None]
    """Fills what all ranks receive with what all ranks sent, in rank order."""


class _Meeting:
    """The calls of one collective as they come in."""

    def __init__(self, size: int) -> None:
        self.calls: list[_Call | None] = [None] * size
        self.missing = size
        self.over = threading.Event()
        """Set once the data of all is where it belongs, or never will be."""

    def move(self) -> None:
        """Give every rank what the others sent."""
        calls = [call for call in self.calls if call is not None]
        for rank, call in enumerate(calls):
            if call.what != calls[0].what:
                raise AssertionError(f"rank 0 calls {calls[0].what}; rank {rank} calls {call.what}")
        with torch.no_grad():
            calls[0].move([call.sent for call in calls], [call.received for call in calls])


class _Exchange:
    """Where the ranks of one run meet: the last to arrive at a collective moves the data of all."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._meeting = _Meeting(size)
        self._is_aborted = False

    def meet(self, rank: int, call: _Call) -> None:
        """Return once all ranks made the same call and the data is where it belongs.

        Raises:
            AssertionError: the ranks made different calls.
            _Aborted: another rank failed, or time is up.
        """
        with self._lock:
            meeting = self._meeting
            meeting.calls[rank] = call
            meeting.missing -= 1
            is_last = meeting.missing == 0
            if is_last:
                self._meeting = _Meeting(self._size)
        if is_last:
            try:
                meeting.move()
            except BaseException:
                self._is_aborted = True
                raise
            finally:
                meeting.over.set()
        elif not self._is_aborted:
            meeting.over.wait()
        if self._is_aborted:
            raise _Aborted

    def end(self, rank: int) -> None:
        """Return once all ranks ended; one that calls a collective instead is an error."""
        self.meet(rank, _Call("nothing: it has ended", torch.empty(0), [], lambda sent, received: None))

    def abort(self) -> None:
        """End all ranks, each at its next collective at the latest."""
        self._is_aborted = True
        with self._lock:
            self._meeting.over.set()

    def absent(self) -> set[int]:
        """Ranks that are not in the collective in which others wait."""
        return {rank for rank, call in enumerate(self._meeting.calls) if call is None}


class _ThreadGroup(dist.ProcessGroup):
    """One rank's view of the group, with the collectives that `swamp_dist.distributed` uses.

    torch has such a group for its own tests; it copies W x W pieces in a gather, takes calls of different
    kinds for one, and a rank that is late reaches into the next run.
    """

    def __init__(self, rank: int, size: int, exchange: _Exchange) -> None:
        super().__init__(rank, size)
        self._exchange = exchange

    def getBackendName(self) -> str:  # noqa: N802
        return "threads"

    def _meet(
        self,
        kind: str,
        sent: Tensor,
        received: list[Tensor],
        move: Callable[..., None],
        is_uneven: bool = False,
    ) -> dist.Work:
        shape = ("any", *sent.shape[1:]) if is_uneven else tuple(sent.shape)
        what = f"{kind} of {shape} {sent.dtype}"
        self._exchange.meet(self.rank(), _Call(what, sent.detach(), [x.detach() for x in received], move))
        done: torch.futures.Future[None] = torch.futures.Future()
        done.set_result(None)
        return torch._C._distributed_c10d._create_work_from_future(done)

    def allreduce(self, tensors: list[Tensor], opts: Any) -> dist.Work:
        (tensor,) = tensors
        return self._meet(
            f"all_reduce {opts.reduceOp.op.name}",
            tensor,
            tensors,
            _reduce_with(_REDUCTIONS[opts.reduceOp.op]),
        )

    def all_gather_single(self, output: Tensor, mine: Tensor, opts: Any) -> dist.Work:
        return self._meet("all_gather_single", mine, [output], _concatenate)

    def allgather(self, outputs: list[list[Tensor]], mine: list[Tensor], opts: Any) -> dist.Work:
        return self._meet("all_gather", mine[0], outputs[0], _list)

    def gather(self, outputs: list[list[Tensor]], mine: list[Tensor], opts: Any) -> dist.Work:
        return self._meet(f"gather to {opts.rootRank}", mine[0], outputs[0] if outputs else [], _list)

    def reduce_scatter_single(self, output: Tensor, whole: Tensor, opts: Any) -> dist.Work:
        move = _reduce_and_split_with(_REDUCTIONS[opts.reduceOp.op])
        return self._meet(f"reduce_scatter_single {opts.reduceOp.op.name}", whole, [output], move)

    def all_to_all_single(
        self, output: Tensor, mine: Tensor, received: list[int], sent: list[int], opts: Any
    ) -> dist.Work:
        even = [len(output) // self.size()] * self.size()
        parts = list(output.split(received or even))
        return self._meet("all_to_all_single", mine, parts, _hand_out, is_uneven=bool(sent))

    def broadcast(self, tensors: list[Tensor], opts: Any) -> dist.Work:
        root = opts.rootRank
        return self._meet(f"broadcast from {root}", tensors[0], tensors, _copy_from(root))

    def barrier(self, opts: Any) -> dist.Work:
        return self._meet("barrier", torch.empty(0), [], lambda sent, received: None)


# -- how data moves --------------------------------------------------------------------------------


def _reduce_with(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., None]:
    def move(sent: list[Tensor], received: list[list[Tensor]]) -> None:
        whole = reduce(function, sent)
        for (mine,) in received:
            mine.copy_(whole)

    return move


def _reduce_and_split_with(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., None]:
    def move(sent: list[Tensor], received: list[list[Tensor]]) -> None:
        for (mine,), part in zip(received, reduce(function, sent).chunk(len(sent)), strict=True):
            mine.copy_(part)

    return move


def _concatenate(sent: list[Tensor], received: list[list[Tensor]]) -> None:
    whole = torch.cat(sent)
    for (mine,) in received:
        mine.copy_(whole)


def _list(sent: list[Tensor], received: list[list[Tensor]]) -> None:
    for mine in received:
        for part, rows in zip(mine, sent if mine else [], strict=True):
            part.copy_(rows)


def _hand_out(sent: list[Tensor], received: list[list[Tensor]]) -> None:
    for rank, whole in enumerate(sent):
        parts = whole.split([len(mine[rank]) for mine in received])
        for mine, part in zip(received, parts, strict=True):
            mine[rank].copy_(part)


def _copy_from(root: int) -> Callable[..., None]:
    def move(sent: list[Tensor], received: list[list[Tensor]]) -> None:
        for (mine,) in received:
            mine.copy_(sent[root])

    return move


# -- a run -----------------------------------------------------------------------------------------

dist.Backend.register_backend(
    "threads",
    lambda options, exchange: _ThreadGroup(options.group_rank, options.group_size, exchange),
    extended_api=True,
    devices=["cpu"],
)


@contextmanager
def _groups_per_thread() -> Iterator[None]:
    """`torch.distributed` knows one group per thread instead of one per process; what ranks set is undone."""
    matmuls: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    precisions = [matmul.fp32_precision for matmul in matmuls]  # the objective's, of many threads at once
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # new threads take it over
    hook = sys.excepthook  # init_process_group replaces it
    _install_threaded_pg()
    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    try:
        yield
    finally:
        torch._C._distributed_c10d._set_thread_isolation_mode(False)
        _uninstall_threaded_pg()
        torch.set_num_threads(num_threads)
        sys.excepthook = hook
        for matmul, precision in zip(matmuls, precisions, strict=True):
            matmul.fp32_precision = precision


def _refuse_seed(seed: int) -> NoReturn:
    raise AssertionError(
        f"torch.manual_seed({seed}) in a rank that is a thread: its draws interleave with those of the "
        "others; draw from torch.Generator().manual_seed"
    )


def run_on_threads(
    function: Callable[..., Any], size: int, args: tuple[Any, ...], timeout: float
) -> list[Any]:
    """See `tests.ranks.run_on_ranks`."""
    exchange, store = _Exchange(size), dist.HashStore()
    answers: queue.SimpleQueue[tuple[int, Any, str | None]] = queue.SimpleQueue()

    def run_rank(rank: int) -> None:
        try:
            dist.init_process_group("threads", rank=rank, world_size=size, store=store, pg_options=exchange)
            result = function(World(rank, size, rank, torch.device("cpu")), *args)
            exchange.end(rank)
            answers.put((rank, result, None))
        except _Aborted:
            pass
        except BaseException:
            answers.put((rank, None, traceback.format_exc()))
            exchange.abort()
        finally:
            leave()

    threads = [threading.Thread(target=run_rank, args=(rank,), daemon=True) for rank in range(size)]
    with _groups_per_thread(), mock.patch("torch.manual_seed", _refuse_seed):
        for thread in threads:
            thread.start()
        try:
            return _collect(answers, size, exchange, timeout)
        finally:
            exchange.abort()
            _join(threads)


def _collect(
    answers: queue.SimpleQueue[tuple[int, Any, str | None]], size: int, exchange: _Exchange, timeout: float
) -> list[Any]:
    """Results in rank order, or the first error."""
    deadline = time.monotonic() + timeout
    results: dict[int, Any] = {}
    while len(results) < size:
        try:
            rank, result, error = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            late = sorted(exchange.absent() - results.keys())
            raise TimeoutError(f"ranks {late} did not answer within {timeout} s") from None
        if error is not None:
            raise AssertionError(f"rank {rank} failed:\n{error}")
        results[rank] = result
    return [results[rank] for rank in range(size)]


def _join(threads: list[threading.Thread]) -> None:
    """Wait for threads that are about to end; one that computes without end stays behind, as a daemon."""
    deadline = time.monotonic() + _LAST_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
