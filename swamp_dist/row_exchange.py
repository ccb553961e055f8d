"""Rows of other ranks that send their gradient back.

`distributed` has what travels without gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from swamp_dist.distributed import Gathering, World, max_over_ranks, start_gather
from swamp_dist.records import Sets


class _Awaited(torch.autograd.Function):
    """The identity. Backward waits for the sum over ranks that `_Gathered` started; nothing else feeds it."""

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

    Autograd runs what was made last first. So a node made where the rows are used starts the sum over ranks,
    and one made where they were sent waits for it: if another encoder computed in between, its backward pass
    runs while the sum is on its way.
    """

    _gathering: Gathering
    _mine: Tensor
    _world: World
    _reducing: list[Any]
    source: Tensor
    """The rows that were sent: all of their gradient arrives there."""
    _rows: Tensor | None = None

    def wait(self) -> Tensor:
        """The rows (W*b, ...) in rank order, differentiable; the same tensor every time."""
        if self._rows is None:
            gathered = self._gathering.wait()
            rows: Tensor = _Gathered.apply(  # type: ignore[no-untyped-call]
                self._mine, gathered, self._world, self._reducing
            )
            self._rows = rows
        return self._rows


Pending = Gathering | GradientGathering
"""Something whose `wait` gives the rows of all ranks."""


def start_gather_rows(rows: Tensor, world: World) -> Pending:
    """`gather_rows` that returns at once; all ranks wait for it before they use the rows."""
    if world.size == 1:
        return Gathering(rows, None, rows)
    reducing: list[Any] = []
    mine: Tensor = _Awaited.apply(rows, reducing)  # type: ignore[no-untyped-call]
    return GradientGathering(start_gather(rows, world), mine, world, reducing, rows)


def gather_rows(rows: Tensor, world: World) -> Tensor:
    """All ranks' rows in rank order, differentiable: (b, ...) -> (W*b, ...).

    The backward pass sums over ranks what each rank's loss sends to my rows. With every rank's loss a
    mean over its own rows and DeepSpeed's average over ranks, the parameter gradient is exactly the
    one of a single process that holds the whole batch.
    """
    return start_gather_rows(rows, world).wait()


def pad_alike(parts: Sequence[Sets], world: World) -> Sets:
    """The sets of a rank's parts, part after part, padded to the longest set of any rank: (b, n, d), so that
    they can be gathered. All ranks call it."""
    width = torch.tensor([max(part.mask.shape[1] for part in parts)], device=parts[0].mask.device)
    longest = int(max_over_ranks(width, world))
    pads = [(0, longest - part.mask.shape[1]) for part in parts]
    values = [functional.pad(part.values, (0, 0, *pad)) for part, pad in zip(parts, pads, strict=True)]
    masks = [functional.pad(part.mask, pad) for part, pad in zip(parts, pads, strict=True)]
    return Sets(torch.cat(values), torch.cat(masks))


def fetch_rows(rows: Tensor, index: Tensor, world: World) -> Tensor:
    """`gather_rows(rows, world)[index]`, of which only the rows that are asked for travel.

    The backward pass sends each row's gradient to the rank that owns it. There they are added one after the
    other, by the rank that asked and then by position in its `index`: bits depend on no timing, and not on
    the number of ranks either where ranks hold consecutive parts of one index and send the same gradients.

    Ranks tell each other how many rows they want, and the host has to read that: one wait for a GPU.

    Args:
        rows: (n, D), equal shapes on all ranks.
        index: (m,) int64 positions among the W*n rows in rank order; m may differ from rank to rank.

    Returns:
        (m, D), differentiable.
    """
    if world.size == 1 and rows.device.type == "cpu":
        return rows.index_select(0, index)  # whose gradient torch adds in order, too
    fetched: Tensor = _Fetched.apply(  # type: ignore[no-untyped-call]
        rows, _plan_fetch(index, len(rows), world)
    )
    return fetched


@dataclass(frozen=True)
class _Fetch:
    """Which rows travel from where to where."""

    order: Tensor
    """(m,) my requests by the rank that owns the row, and by position among those; unused on one rank."""
    places: Tensor
    """(k,) my rows that are wanted, by the rank that wants them, and in the order of its requests."""
    asked: list[int]
    """Rows that I want of each rank; m in total."""
    wanted: list[int]
    """Rows that each rank wants of me; k in total."""
    world: World

    def send(self, rows: Tensor) -> Tensor:
        """Take rows (k, D), one for each of `places`, to those who asked; (m, D) in the order of requests."""
        if self.world.size == 1:
            return rows
        found = _exchange(rows, self.wanted, self.asked)
        return torch.empty_like(found).index_copy_(0, self.order, found)

    def send_back(self, rows: Tensor) -> Tensor:
        """The other way round: rows (m, D), one per request, to those who own them; (k, D)."""
        if self.world.size == 1:
            return rows
        return _exchange(rows[self.order], self.asked, self.wanted)


def _plan_fetch(index: Tensor, rows_per_rank: int, world: World) -> _Fetch:
    if world.size == 1:
        return _Fetch(index, index, [], [], world)
    owner = index // rows_per_rank
    order = owner.argsort(stable=True)
    counts = index.new_zeros(world.size).scatter_add_(0, owner, torch.ones_like(owner))
    others = torch.empty_like(counts)
    dist.all_to_all_single(others, counts)
    asked, wanted = torch.stack((counts, others)).tolist()  # the one host read
    places = _exchange((index % rows_per_rank)[order], asked, wanted)
    return _Fetch(order, places, asked, wanted, world)


def _exchange(rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """Send consecutive parts of `rows` to the ranks, and receive parts of theirs, in rank order."""
    found = rows.new_empty((sum(received), *rows.shape[1:]))
    dist.all_to_all_single(found, rows.contiguous(), received, sent)
    return found


class _Fetched(torch.autograd.Function):
    """Rows of other ranks, as a function of mine."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, fetch: _Fetch) -> Tensor:
        ctx.fetch, ctx.shape = fetch, rows.shape
        return fetch.send(rows[fetch.places])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        fetch: _Fetch = ctx.fetch
        return _add_in_order(gradient.new_zeros(ctx.shape), fetch.places, fetch.send_back(gradient)), None


def _add_in_order(total: Tensor, places: Tensor, rows: Tensor) -> Tensor:
    """Add rows (k, D) to the rows of `total` at `places` (k,), first to last.

    A GPU's index_add_ adds in the order in which its threads come, its index_put_ sorts first; a CPU with
    several threads has it the other way round.
    """
    if total.device.type == "cuda":
        return total.index_put_((places,), rows, accumulate=True)
    return total.index_add_(0, places, rows)
