"""What reading a training split keeps in a machine's memory beside the tensors of its ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from swamp_dist.config import DataSettings
from swamp_dist.data.blend import Blend, set_orders
from swamp_dist.data.manifest import SplitIndex
from swamp_dist.records import BatchPlan


class Kept(NamedTuple):
    """What a rank keeps of one set."""

    name: str
    """Of the set: its split, in a stated blend after the set's own name."""
    shards: int
    """Whole shards that a process keeps at most; 0 where entries are kept, each once per rank."""
    processes: int
    """That keep them each for itself."""
    bytes: int
    """Of all of them together, at most."""


def kept_of(blend: Blend, data: DataSettings, plan: BatchPlan) -> Iterator[Kept]:
    """What a rank of the plan keeps of every set, and of the split that partners are drawn from: nothing
    where entries are read by offset.

    Raises:
        UserError: as `set_orders`.
    """
    for each, order in zip(blend.sets, set_orders(blend, data, plan, seed=0), strict=True):
        split = each.split
        name = f"{each.name}: split {split.name}" if blend.is_stated else f"split {split.name}"
        if data.cache == "memory":
            yield Kept(name, 0, 1, split.bytes)
        elif data.reading == "stream":
            lanes = lanes_read(order.plan.lanes, plan.world_size, is_alone=len(blend.sets) == 1)
            full = split.bytes < data.full_shuffle_below
            shards = resident_shards(split, lanes, full, data.shuffle_block)
            largest = max(shard.bytes for shard in split.record.shards)
            processes = max(data.workers, 1)
            yield Kept(name, shards, processes, shards * largest * processes)
    if data.partners is not None and data.cache == "memory":
        partners = blend.sets[0].manifest.split(data.partners.split)
        yield Kept(f"split {partners.name}", 0, 1, partners.bytes)


def lanes_read(lanes: int, world_size: int, is_alone: bool) -> int:
    """Lanes of a set that a rank reads at most: its own, or those that its share of a blend touches."""
    return lanes // world_size if is_alone else min(lanes, -(-lanes // world_size) + 1)


def resident_shards(split: SplitIndex, lanes: int, full_shuffle: bool, shuffle_block: int) -> int:
    """Shards that streaming must hold so that none is read twice within a block: every one of the rank's
    `lanes` is at a place of its own in the epoch, and a block reaches over one shard more than it fills. A
    split that is permuted as a whole needs all of them: lower `full_shuffle_below` where memory is short.
    """
    shards = len(split.record.shards)
    if full_shuffle:
        return shards
    smallest = max(1, min(split.shard_entries[:-1], default=len(split)))
    block = -(-shuffle_block // smallest) + 1
    return min(shards, block * lanes)
