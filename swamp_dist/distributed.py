"""Who the ranks are, and the few ways in which they talk.

A function that communicates takes a `World`; everything else is local. Which rank a process is,
`environment` reads.
"""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from swamp_dist.environment import Place, read_environment
from swamp_dist.records import UserError

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


def join(timeout_seconds: float = 600.0) -> World:
    """Join the process group the environment describes (a group of one where it describes none).

    Backend: nccl on GPUs, gloo on CPUs. DeepSpeed insists on a process group even for one rank.
    """
    place = read_environment()
    device = _device(place)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    timeout = datetime.timedelta(seconds=timeout_seconds)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if place.world_size == 1:
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asserts on it even for a given group
        store = torch._C._distributed_c10d.HashStore()  # in memory: no port to collide on
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
    else:
        os.environ.update(place.variables())  # of srun: DeepSpeed knows torch's names only
        dist.init_process_group(backend, rank=place.rank, world_size=place.world_size, timeout=timeout)
    return World(place.rank, place.world_size, place.local_rank, device)


def _device(place: Place) -> torch.device:
    """The rank's own GPU, or the CPU. A scheduler that binds GPUs to tasks shows each rank just one.

    Raises:
        UserError: more ranks on this node than GPUs.
    """
    if not torch.cuda.is_available() or os.environ.get("DS_ACCELERATOR") == "cpu":
        return torch.device("cpu")
    visible = torch.cuda.device_count()
    if place.local_rank >= visible > 1:
        raise UserError(
            f"rank {place.rank} is number {place.local_rank} on its node, which shows {visible} GPUs: expected "
            "one rank a GPU.\nStart fewer ranks a node, or ask for more GPUs (tasks_per_node and gpus_per_node)."
        )
    return torch.device("cuda", place.local_rank if visible > 1 else 0)


def leave() -> None:
    """Leave the process group; without it a gloo rank can abort at exit after all work was done."""
    if dist.is_initialized():
        dist.destroy_process_group()


def configure_logging(world: World, log_file: str | None = None) -> None:
    """Package log: everything to this rank's file, messages of the main rank to the console too."""
    logger = logging.getLogger("swamp_dist")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers.clear()
    line = logging.Formatter(f"%(asctime)s rank {world.rank} %(levelname)s %(name)s: %(message)s")
    if log_file is not None:
        to_file = logging.FileHandler(log_file)
        to_file.setFormatter(line)
        logger.addHandler(to_file)
    if world.is_main:
        to_console = logging.StreamHandler()
        to_console.setFormatter(_Brief("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(to_console)


class _Brief(logging.Formatter):
    """Leaves traces to the log file: the console says what happened in one screen."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(logging.makeLogRecord(vars(record) | {"exc_info": None, "exc_text": None}))


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


class _Awaited(torch.autograd.Function):
    """The identity. Backward waits for the sum over ranks that `_Gathered` started: nothing else may feed it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, reducing: list[Any]) -> Tensor:
        ctx.reducing = reducing
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        work, _ = ctx.reducing.pop()
        work.wait()
        return gradient, None


class _Gathered(torch.autograd.Function):
    """Rows that `start_gather` brought, as a function of mine."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, rows: Tensor, world: World, reducing: list[Any]) -> Tensor:
        ctx.world, ctx.reducing = world, reducing
        return rows

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        world: World = ctx.world
        mine = gradient.new_empty((gradient.shape[0] // world.size, *gradient.shape[1:]))
        whole = gradient.contiguous()
        work = dist.reduce_scatter_single(mine, whole, async_op=True)
        ctx.reducing.append((work, whole))  # its memory must not be used again before
        return mine, None, None, None


@dataclass
class GradientGathering:
    """Rows of all ranks on their way here, which will send their gradient back.

    Autograd runs what was made last first. So the sum over ranks is started by a node made where the rows are
    used, and awaited by one made where they began to travel: if another tower computed in between, its backward
    pass runs while the sum is on its way.
    """

    _gathering: Gathering
    _mine: Tensor
    _world: World
    _reducing: list[Any]
    _rows: Tensor | None = None

    def wait(self) -> Tensor:
        """The rows (W*b, ...) in rank order, differentiable; the same tensor every time."""
        if self._rows is None:
            rows: Tensor = _Gathered.apply(self._mine, self._gathering.wait(), self._world, self._reducing)  # type: ignore[no-untyped-call]
            self._rows = rows
        return self._rows


Pending = Gathering | GradientGathering
"""Something whose `wait` gives the rows of all ranks."""


def start_gather_rows(rows: Tensor, world: World) -> Pending:
    """`gather_rows` that returns while the rows are on their way. All ranks wait for it before they use them."""
    if world.size == 1:
        return Gathering(rows, None, rows)
    reducing: list[Any] = []
    mine: Tensor = _Awaited.apply(rows, reducing)  # type: ignore[no-untyped-call]
    return GradientGathering(start_gather(rows, world), mine, world, reducing)


def start_gather(rows: Tensor, world: World) -> Gathering:
    """`gather` that returns while the rows are on their way."""
    if world.size == 1:
        return Gathering(rows, None, rows)
    mine = rows.detach().contiguous()
    out = rows.new_empty((world.size * rows.shape[0], *rows.shape[1:]))
    return Gathering(out, dist.all_gather_single(out, mine, async_op=True), mine)


def gather_rows(rows: Tensor, world: World) -> Tensor:
    """All ranks' rows in rank order, differentiable: (b, ...) -> (W*b, ...).

    The backward pass sums over ranks what each rank's loss sends to my rows. With every rank's loss a
    mean over its own rows and DeepSpeed's average over ranks, the parameter gradient is exactly the
    one of a single process that holds the whole batch.
    """
    return start_gather_rows(rows, world).wait()


def gather(rows: Tensor, world: World) -> Tensor:
    """All ranks' rows in rank order, without gradient; equal shapes on all ranks."""
    return start_gather(rows, world).wait()


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


def mean_over_ranks(values: Tensor, world: World) -> Tensor:
    """Elementwise mean over ranks. May overwrite `values`."""
    return sum_over_ranks(values, world) / world.size


def agree(flag: bool, world: World) -> bool:
    """True on every rank as soon as it is true on one: the only way a rank may leave the common path."""
    return bool(max_over_ranks(torch.tensor(float(flag), device=world.device), world).item())


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
