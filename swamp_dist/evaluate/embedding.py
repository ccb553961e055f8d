"""Embeds every item of a split exactly once, in an order that no world size changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from swamp_dist.data.entry import Entry
from swamp_dist.distributed import World, gather

Embed = Callable[[Tensor], Tensor]
"""One encoder on one chunk: (chunk, ...) -> (chunk, D). May communicate (ZeRO-3 gathers parameters)."""


class Reader(Protocol):
    """Random access to the decoded entries of one split."""

    def read(self, indices: Sequence[int]) -> Sequence[Entry]:
        """The entries at these positions, in this order."""


@dataclass(frozen=True)
class Embedded:
    """All items of one field of a split, in manifest order; equal on all ranks."""

    rows: Tensor
    """(n, D) float32."""
    entry: Tensor
    """(n,) int64: position in the split of the entry an item belongs to."""
    label: Tensor
    """(n,) int64: class of that entry, -1 where it has none."""


@dataclass(frozen=True)
class _Block:
    """Items of `chunk` consecutive entries: the unit that is dealt to ranks."""

    items: Tensor
    """(n, ...) inputs on the CPU."""
    entry: Tensor
    label: Tensor


def embed_split(
    embed: Embed, reader: Reader, field: str, num_entries: int, several: bool, chunk: int, world: World
) -> Embedded:
    """Embed all items of `field`, each once, on all ranks together.

    Entries are taken in blocks of `chunk`; block i is read and embedded by rank i mod W, `chunk` items
    at a time with the last chunk filled up by repeating a row. What meets in a chunk and the shape
    that the encoder sees therefore depend on `chunk` alone. In every round all ranks make the same
    number of `embed` calls (a ZeRO-3 encoder communicates inside); a rank with less to do repeats a
    chunk, and the surplus rows are dropped.

    The caller has put the module into evaluation mode. Gradients are off, but inference mode is not
    used: small parameters that ZeRO-3 keeps gathered would stay inference tensors, and training that
    goes on after a validation would fail on them.

    Args:
        embed: (chunk, ...) on `world.device`, float16 fields as float32 -> (chunk, D).
        reader: entries of the split.
        field: name of the field.
        num_entries: entries of the split, at least 1.
        several: whether an array of the field holds several items (a leading axis).
        chunk: items embedded at a time.
    """
    rounds = -(-num_entries // (chunk * world.size))
    parts: list[Embedded] = []
    with torch.no_grad():
        for i in range(rounds):
            start = (i * world.size + world.rank) * chunk
            block = _read_block(reader, field, several, range(start, min(start + chunk, num_entries)))
            parts.append(_embed_round(embed, block, chunk, world))
    rows, entry, label = (
        torch.cat(x) for x in zip(*((p.rows, p.entry, p.label) for p in parts), strict=True)
    )
    return Embedded(rows, entry, label)


def _read_block(reader: Reader, field: str, several: bool, indices: range) -> _Block:
    """Items of the entries at `indices`. Past the end of the split: entry 0 as filler, with no owner."""
    entries = reader.read(list(indices) or [0])
    arrays = [e.arrays[field] if several else e.arrays[field][None] for e in entries]
    counts = torch.tensor([len(x) if indices else 0 for x in arrays])
    owner = torch.tensor([(e.index, e.label) for e in entries]).repeat_interleave(counts, dim=0)
    return _Block(torch.from_numpy(np.concatenate(arrays)), owner[:, 0], owner[:, 1])


def _embed_round(embed: Embed, block: _Block, chunk: int, world: World) -> Embedded:
    """Embed one block a rank; all ranks' rows in rank order, which is the order of the blocks."""
    mine = torch.tensor([len(block.entry)], device=world.device)
    counts = gather(mine, world).tolist()
    calls = max(1, -(-max(counts) // chunk))
    filled = _fill(block.items, calls * chunk).to(world.device)
    filled = filled.float() if filled.dtype == torch.float16 else filled  # as the training stream does
    parts = (filled[i : i + chunk] for i in range(0, calls * chunk, chunk))
    rows = torch.cat([embed(part).float() for part in parts])
    owner = torch.stack([_fill(x, calls * chunk) for x in (block.entry, block.label)], dim=1)
    rows, owner = gather(rows, world), gather(owner.to(world.device), world)
    kept = torch.cat([torch.arange(n, device=rows.device) + r * calls * chunk for r, n in enumerate(counts)])
    return Embedded(rows[kept], owner[kept, 0], owner[kept, 1])


def _fill(items: Tensor, length: int) -> Tensor:
    """The first axis brought to `length` by repeating the last row (zeros where there is no row)."""
    if len(items) > length:
        return items[:length]
    last = items[-1:] if len(items) else items.new_zeros((1, *items.shape[1:]))
    return torch.cat([items, last.expand(length - len(items), *items.shape[1:])])
