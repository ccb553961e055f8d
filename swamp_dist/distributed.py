"""Who the ranks are, and the few ways in which they talk.

A function that communicates takes a `World`; everything else is local. Which rank a process is,
`environment` reads.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore, Store

from swamp_dist.environment import RankInfo, read_environment
from swamp_dist.errors import UserError
from swamp_dist.rendezvous import (
    GLOO_INTERFACE,
    NCCL_INTERFACE,
    RendezvousError,
    choose_interfaces,
    find_meeting_point,
    open_store,
)

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class World:
    """This process among its peers, as a value. `size == 1` never communicates."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files and prints."""
        return self.rank == 0


def alone(device: torch.device | str = "cpu") -> World:
    """A world of one, for evaluation in a notebook and for reference values in tests."""
    return World(0, 1, 0, torch.device(device))


def joined(device: torch.device) -> World:
    """The world of the process group that this process has joined, whoever made it; alone where there is
    none."""
    if not dist.is_available() or not dist.is_initialized():
        return alone(device)
    return World(dist.get_rank(), dist.get_world_size(), device.index or 0, device)


def join(timeout_seconds: float = 600.0) -> World:
    """Join the process group the environment describes (a group of one where it describes none).

    Backend: nccl on GPUs, gloo on CPUs. DeepSpeed insists on a process group even for one rank.

    Raises:
        RendezvousError: the ranks cannot meet within the time.
        UserError: more ranks on this node than GPUs.
    """
    info = read_environment()
    device = _device(info)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    timeout = datetime.timedelta(seconds=timeout_seconds)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if info.world_size == 1:
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asserts on it even for a given group
        choose_interfaces(find_meeting_point(info))  # gloo listens for one rank too
        store: Store | None = HashStore()  # in memory: no port to collide on
    else:
        os.environ.update(info.variables())  # of srun: DeepSpeed knows torch's names only
        store = open_store(info, timeout_seconds)
    try:
        dist.init_process_group(
            backend, store=store, rank=info.rank, world_size=info.world_size, timeout=timeout
        )
    except RuntimeError as error:  # torch's own have no common class below it
        raise RendezvousError(_not_met(info, error)) from error
    return World(info.rank, info.world_size, info.local_rank, device)


def _not_met(info: RankInfo, error: RuntimeError) -> str:
    said = (str(error).splitlines() or [""])[0]
    return (
        f"rank {info.rank} of {info.world_size} did not meet the others, who began at "
        f"{info.address}:{info.port}: {said}\n"
        "Fix: look at the logs of the other ranks first. Where none says more, look at the firewall between "
        f"the hosts and at the interface ({GLOO_INTERFACE}, {NCCL_INTERFACE})."
    )


def _device(info: RankInfo) -> torch.device:
    """The rank's own GPU, or the CPU. A scheduler that binds GPUs to tasks shows each rank just one.

    Raises:
        UserError: more ranks on this node than GPUs.
    """
    if not torch.cuda.is_available() or os.environ.get("DS_ACCELERATOR") == "cpu":
        return torch.device("cpu")
    visible = torch.cuda.device_count()
    if info.local_rank >= visible > 1:
        raise UserError(
            f"rank {info.rank} is number {info.local_rank} on its node, which shows {visible} GPUs: "
            "expected one rank per GPU.\n"
            "Start fewer ranks per node, or ask for more GPUs (tasks_per_node and gpus_per_node)."
        )
    return torch.device("cuda", info.local_rank if visible > 1 else 0)


def leave() -> None:
    """Leave the process group; without it a gloo rank can abort at exit after all work was done."""
    if dist.is_initialized():
        dist.destroy_process_group()


@dataclass(frozen=True)
class Gathering:
    """Rows of all ranks on their way here, while this rank computes something else."""

    _rows: Tensor
    _work: Any
    _mine: Tensor
    """What is being sent: its memory must not be used again before."""

    def wait(self) -> Tensor:
        """The rows (W*b, ...) in rank order. A GPU waits by itself; the host goes on."""
        if self._work is not None:
            self._work.wait()
        return self._rows


def start_gather(rows: Tensor, world: World) -> Gathering:
    """`gather` that returns while the rows are on their way."""
    if world.size == 1:
        return Gathering(rows, None, rows)
    mine = rows.detach().contiguous()
    out = rows.new_empty((world.size * rows.shape[0], *rows.shape[1:]))
    return Gathering(out, dist.all_gather_single(out, mine, async_op=True), mine)


def gather(rows: Tensor, world: World) -> Tensor:
    """All ranks' rows in rank order, without gradient; equal shapes on all ranks."""
    return start_gather(rows, world).wait()


def start_shift(rows: Tensor, world: World) -> Gathering:
    """Send my rows to the next rank; the answer waits for those of the rank before, of equal shape. All ranks
    call it. An uneven all-to-all of which all parts but one are empty: nothing else has to be sent."""
    mine, received = rows.detach().contiguous(), torch.empty_like(rows)
    to, of = [0] * world.size, [0] * world.size
    to[(world.rank + 1) % world.size] = of[(world.rank - 1) % world.size] = len(rows)
    return Gathering(received, dist.all_to_all_single(received, mine, of, to, async_op=True), mine)


def gather_to_main(rows: Tensor, world: World) -> list[Tensor]:
    """Every rank's `rows` in rank order on rank 0, [] on the others; equal shapes on all ranks."""
    if world.size == 1:
        return [rows]
    parts = [torch.empty_like(rows) for _ in range(world.size)] if world.is_main else []
    dist.gather(rows.contiguous(), parts or None)
    return parts


def sum_over_ranks(values: Tensor, world: World) -> Tensor:
    """Elementwise sum over ranks; the same bits on every rank. May overwrite `values`."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def max_over_ranks(values: Tensor, world: World) -> Tensor:
    """Elementwise maximum over ranks. May overwrite `values`."""
    if world.size > 1:
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def best_over_ranks(values: Tensor, index: Tensor, world: World) -> tuple[Tensor, Tensor]:
    """Elementwise the largest value over ranks and, of those that have it, the lowest index; nan is larger
    than any number. (n,) float32 or float64 and (n,) int64; the same bits on every rank.

    A maximum of values may lose nan on its way, and no sum or maximum keeps an index with its value. So the
    values travel as integers of the same order, and the indices after them: two all-reduces.
    """
    if world.size == 1:
        return values, index
    mine = _as_ordered_integers(values)
    best = max_over_ranks(mine.clone(), world)
    lowest = index.masked_fill(mine != best, torch.iinfo(index.dtype).max)
    dist.all_reduce(lowest, op=dist.ReduceOp.MIN)
    return _flip_negatives(best).view(values.dtype), lowest


def _as_ordered_integers(values: Tensor) -> Tensor:
    """Integers that compare as the numbers do: -0 equals 0, all nan are equal and above infinity."""
    plain = torch.where(values.isnan(), torch.nan, values + 0.0)
    return _flip_negatives(plain.view(torch.int32 if values.dtype == torch.float32 else torch.int64))


def _flip_negatives(bits: Tensor) -> Tensor:
    """Reverse the order of negative numbers, whose bits are a sign and a size; its own inverse."""
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)


def start_max_over_ranks(values: Tensor, world: World) -> Gathering:
    """`max_over_ranks` that returns at once; `values` must not be used before it was waited for."""
    work = dist.all_reduce(values, op=dist.ReduceOp.MAX, async_op=True) if world.size > 1 else None
    return Gathering(values, work, values)


def mean_over_ranks(values: Tensor, world: World) -> Tensor:
    """Elementwise mean over ranks. May overwrite `values`."""
    return sum_over_ranks(values, world) / world.size


def agree(flag: bool, world: World) -> bool:
    """True on every rank as soon as it is true on one: the only way a rank may leave the common path."""
    return bool(max_over_ranks(torch.tensor(float(flag), device=world.device), world).item())


def broadcast_from_main(values: Tensor, world: World) -> None:
    """Overwrite `values` with those of rank 0; equal shapes on all ranks."""
    if world.size > 1:
        dist.broadcast(values, 0)


def barrier(world: World) -> None:
    """Wait for all ranks."""
    if world.size > 1:
        dist.barrier()


def gather_objects(value: _Answer, world: World) -> list[_Answer]:
    """One plain value of every rank, in rank order (small things: file lists, counts, errors)."""
    if world.size == 1:
        return [value]
    answers: list[Any] = [None] * world.size
    dist.all_gather_object(answers, value)
    return answers


def on_main(world: World, action: Callable[[], _Answer]) -> _Answer:
    """What `action` returns on rank 0, on all ranks; its UserError or OSError is raised on all ranks too.

    Without this a rank 0 that fails alone leaves the others waiting in their next collective.
    """
    answer: Any = None
    error: Exception | None = None
    if world.is_main:
        try:
            answer = action()
        except (UserError, OSError) as caught:
            error = caught
    if world.size > 1:
        packet = [(answer, error)]
        dist.broadcast_object_list(packet, src=0)
        answer, error = packet[0]
    if error is not None:
        raise error
    return answer  # type: ignore[no-any-return]


def lost_peers(error: Exception, world: World) -> bool:
    """Whether a collective failed because another rank ended; what ended that one, it says itself.

    gloo raises a bare RuntimeError, so its words have to tell.
    """
    return world.size > 1 and isinstance(error, RuntimeError) and "onnection" in str(error)
