"""The queue of recent embeddings that joins the batch in the solve (paper, Algorithm 1).

A ring: of the rows that a rank holds, the g-th lies in slot g mod their number, and a row is valid by its
insertion index alone. Nothing is ever shifted, and no size has to divide another.

Replicated, every rank holds all rows. Sharded, it holds the rows it made, and which these are follows from
their distance to the newest row: of every batch of B pairs rank r makes [r*b, (r+1)*b). A ring with room for
just its part of the newest `capacity` rows drops each row when it gets too old, whatever the capacity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from swamp_dist.distributed import World, gather_to_main
from swamp_dist.objective.placement import queue_capacity, rank_share
from swamp_dist.objective.queue_items import QueueItems
from swamp_dist.objective.ring_buffer import in_order, write_ring
from swamp_dist.objective.solve.scores import ScorePrecision, operand

__all__ = ["QueueShard", "Queue", "queue_capacity", "queue_figures"]

_CHUNK_BYTES = 64 * 2**20
"""Device memory of rank 0 for rows on their way into a commit."""


@dataclass(frozen=True)
class QueueShard:
    """What one rank holds of a sharded queue, and what the others do."""

    batch_pairs: int
    rank: int
    world_size: int

    @property
    def local_pairs(self) -> int:
        """Pairs b that a rank pushes."""
        return self.batch_pairs // self.world_size

    def share(self, rows: int) -> int:
        """How many of the newest `rows` rows this rank holds."""
        return rank_share(rows, self.batch_pairs, self.rank, self.world_size)

    def positions(self, rows: int) -> list[Tensor]:
        """For every rank, positions (share,) of its rows among the newest `rows`, all oldest first."""
        in_batch = self.batch_pairs - 1 - torch.arange(rows - 1, -1, -1) % self.batch_pairs
        by_owner = (in_batch // self.local_pairs).argsort(stable=True)
        ranks = range(self.world_size)
        shares = [rank_share(rows, self.batch_pairs, r, self.world_size) for r in ranks]
        return list(torch.split(by_owner, shares))


class Queue:
    """The newest `capacity` pairs of embeddings: the whole of them, or this rank's `shard`.

    Lives outside the module: module buffers would be broadcast from rank 0 on each step.
    """

    def __init__(
        self,
        capacity: int,
        embedding_dim: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        shard: QueueShard | None = None,
        precision: ScorePrecision = "float32",
        *,
        unique_items: bool = False,
    ) -> None:
        """An empty queue. Where the score product takes bfloat16, rows are rounded once, when they come, and
        the rounded copy lies beside the rows; it is no part of the state. With `unique_items` a row counts
        only while no newer one has its item."""
        self.capacity = capacity
        self.shard = shard
        """None where every rank holds all rows."""
        self.pushed = 0
        """Pairs ever pushed by all ranks; the next one gets this insertion index."""
        self._room = capacity if shard is None else shard.share(capacity)
        self._written = 0
        """Pairs ever written here: the next one's place in the ring of this rank."""
        self._a = torch.zeros(self._room, embedding_dim, device=device, dtype=dtype)
        self._b = torch.zeros_like(self._a)
        rounds = operand(self._a[:0], precision).dtype != dtype
        self._rounded = (self._a.bfloat16(), self._b.bfloat16()) if rounds else None
        self._ids = torch.full((self._room,), -1, device=device)
        # Of all rows on every rank: 8 bytes each, and no rank has to ask for ages.
        self._steps = torch.full((capacity,), -1, device=device)
        self._items = QueueItems(capacity, self._room, device) if unique_items else None

    def __len__(self) -> int:
        """Valid rows on all ranks."""
        return min(self.pushed, self.capacity)

    @property
    def is_replicated(self) -> bool:
        """Whether every rank holds all rows."""
        return self.shard is None

    @property
    def takes_all_ids(self) -> bool:
        """Whether `push` takes the ids of all pairs of the batch, or those of this rank's alone."""
        return self.shard is None or self._items is not None

    @property
    def held(self) -> int:
        """Valid rows here. They are the first slots of the ring, whether it is full or not."""
        return len(self) if self.shard is None else self.shard.share(len(self))

    def is_batch(self, rows: int) -> bool:
        """Whether the rows here are the `rows` pushed last and nothing else, in their order."""
        return self.held == self._room == rows and self._written % rows == 0

    def most_held(self, parts: int = 1) -> int:
        """Rows of the rank with most: of its own where sharded, else of `parts` even shares of all."""
        if self.shard is None:
            return -(-len(self) // parts)
        return rank_share(len(self), self.shard.batch_pairs, self.shard.world_size - 1, self.shard.world_size)

    @property
    def a(self) -> Tensor:
        """(held, D) embeddings of modality A, in slot order."""
        return self._a[: self.held]

    @property
    def b(self) -> Tensor:
        """(held, D) embeddings of modality B, in slot order."""
        return self._b[: self.held]

    @property
    def operands(self) -> tuple[Tensor, Tensor]:
        """(held, D) embeddings of A and of B as the score product takes them, in slot order."""
        if self._rounded is None:
            return self.a, self.b
        return self._rounded[0][: self.held], self._rounded[1][: self.held]

    @property
    def ids(self) -> Tensor:
        """(held,) ids of items, in slot order."""
        return self._ids[: self.held]

    @property
    def steps(self) -> Tensor:
        """(len,) training step at which each valid row of any rank was pushed."""
        return self._steps[: len(self)]

    def push(self, a: Tensor, b: Tensor, ids: Tensor, step: int) -> None:
        """Insert a batch of pairs over the oldest rows: a and b (n, D) and ids (n,), all of its pairs or
        this rank's b of them where the queue is sharded; but all ids where it `takes_all_ids`.

        Raises:
            ValueError: the batch does not fit.
        """
        pairs = len(a) if self.shard is None else self.shard.batch_pairs
        if pairs > self.capacity:
            raise ValueError(f"a batch of {pairs} pairs does not fit a queue of {self.capacity}")
        if self.shard is not None and len(a) != self.shard.local_pairs:
            raise ValueError(f"{len(a)} pairs pushed, {self.shard.local_pairs} expected of each rank")
        if self._items is not None:
            first = 0 if self.shard is None else self.shard.rank * len(a)
            mine = torch.arange(first, first + len(a), device=ids.device)
            self._items.write(ids, mine, self.pushed, self._written)
            ids = ids[mine]
        self._write(a, b, ids, ids.new_full((pairs,), step))

    def _write(self, a: Tensor, b: Tensor, ids: Tensor, steps: Tensor) -> None:
        """Rows of this rank, and the steps of those of all ranks."""
        for ring, rows in ((self._a, a), (self._b, b), (self._ids, ids)):
            write_ring(ring, rows, self._written)
        for ring, rows in zip(self._rounded or (), (a, b), strict=False):  # none without a copy
            write_ring(ring, rows, self._written)
        write_ring(self._steps, steps, self.pushed)
        self._written += len(a)
        self.pushed += len(steps)

    def counting(self, batch: int) -> Tensor:
        """(len,) bool: which valid rows of any rank count, the newest `batch` of them all do; the same on all
        ranks.

        Raises:
            ValueError: the queue does not tell items apart.
        """
        if self._items is None:
            raise ValueError("a queue made without `unique_items` does not tell items apart")
        return self._items.counting(len(self), self.pushed, batch)

    def of_mine(self, counting: Tensor) -> Tensor:
        """(held,) bool: what `counting` says of the rows here, in slot order."""
        return counting if self._items is None else self._items.of_mine(counting, self.held)

    def ages(self, step: int) -> Tensor:
        """(len,) steps since each valid row of any rank was pushed."""
        return step - self.steps

    def state(self, world: World) -> dict[str, Tensor]:
        """Everything the queue holds on all ranks, oldest row first, as copies on the CPU of rank 0.

        The order is that of insertion and not of slots, so it can be dealt to any layout, world size and
        capacity. All ranks call it. Sharded rows travel in chunks; the others get {} then.
        """
        steps = in_order(self._steps, len(self), self.pushed, slice(0, len(self))).cpu()
        rings = {"a": self._a, "b": self._b, "ids": self._ids}
        tables = {name: self._table(ring, world) for name, ring in rings.items()}
        if any(table is None for table in tables.values()):
            return {}
        rows = {name: table for name, table in tables.items() if table is not None}
        return rows | {"steps": steps, "pushed": torch.tensor(self.pushed)}

    def _table(self, ring: Tensor, world: World) -> Tensor | None:
        """(len, ...) the rows of all ranks in insertion order; None where rank 0 has them."""
        if self.shard is None or len(self) == 0:
            return in_order(ring, self.held, self._written, slice(0, self.held)).cpu()
        positions = self.shard.positions(len(self))
        longest = max(len(mine) for mine in positions)
        row_bytes = world.size * ring[:1].numel() * ring.element_size()
        chunk = max(1, _CHUNK_BYTES // row_bytes)
        table = None
        for first in range(0, longest, chunk):
            part = ring.new_zeros(min(chunk, longest - first), *ring.shape[1:])
            mine = in_order(ring, self.held, self._written, slice(first, first + len(part)))
            part[: len(mine)] = mine
            parts = gather_to_main(part, world)
            if parts and table is None:
                table = torch.empty(len(self), *ring.shape[1:], dtype=ring.dtype)
            for theirs, rows in zip(positions, parts, strict=False):  # none but on rank 0
                assert table is not None
                places = theirs[first : first + len(part)]
                table[places] = rows[: len(places)].cpu()
        return table

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what is mine of `state`; of more rows than fit, the newest.

        Raises:
            ValueError: the rows have another embedding size, or are not those of a queue.
        """
        _check_saved(state, self._a.shape[1])
        kept = min(len(state["a"]), self.capacity)
        a, b, ids, steps = (state[name][len(state[name]) - kept :] for name in ("a", "b", "ids", "steps"))
        self._ids.fill_(-1)
        self._steps.fill_(-1)
        # A ring with free slots counts from 0 again: validity is read off the count.
        self.pushed = int(state["pushed"]) - kept if kept == self.capacity else 0
        self._written = self.pushed
        mine = torch.arange(kept)
        if self.shard is not None:
            mine = self.shard.positions(kept)[self.shard.rank]
            a, b = a[mine], b[mine]
            # The slots are those of a run that never stopped: every batch brought b rows.
            written = (self.pushed + kept) // self.shard.world_size
            self._written = written - len(a) if kept == self.capacity else 0
        if self._items is not None:
            self._items.write(ids, mine, self.pushed, self._written)
        self._write(a, b, ids[mine], steps)


def _check_saved(state: dict[str, Tensor], dim: int) -> None:
    """Refuse what no queue has saved, before any of it is taken over."""
    lacking = [name for name in ("a", "b", "ids", "steps", "pushed") if name not in state]
    if lacking:
        raise ValueError(f"the saved queue lacks {', '.join(lacking)}")
    if state["a"].dim() != 2 or state["a"].shape[1] != dim:
        shape = tuple(state["a"].shape)
        raise ValueError(f"the saved queue holds embeddings of shape {shape}, expected (n, {dim})")
    rows = len(state["a"])
    shapes = {"b": (rows, dim), "ids": (rows,), "steps": (rows,), "pushed": ()}
    for name, shape in shapes.items():
        if tuple(state[name].shape) != shape:
            raise ValueError(
                f"the saved queue of {rows} rows has {name} of shape {tuple(state[name].shape)}, not {shape}"
            )
    if any(state[name].is_floating_point() for name in ("ids", "steps", "pushed")):
        raise ValueError("the saved queue counts in fractions")
    if int(state["pushed"]) < rows:
        raise ValueError(f"the saved queue holds {rows} rows of {int(state['pushed'])} that were pushed")


def queue_figures(queue: Queue, step: int) -> dict[str, Tensor]:
    """How full the queue is and how old its rows are, in steps: 0-d tensors by metric tag."""
    ages = queue.ages(step).to(queue.a.dtype)
    return {
        "queue/fill": ages.new_full((), len(queue) / queue.capacity),
        "queue/age_mean": ages.mean(),
        "queue/age_max": ages.amax(),
    }
