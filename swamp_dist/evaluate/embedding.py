"""Embeds every item of a split exactly once, in an order that no world size changes.

Items with equal inputs (a caption that two entries share) end with one embedding, the first one's: what
a row is next to in a chunk can change the last bits of its embedding, and ties must stay ties.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from swamp_dist.data.column import array_objects
from swamp_dist.data.entry import Entry
from swamp_dist.data.field_inputs import FieldInputs
from swamp_dist.distributed import World, gather
from swamp_dist.errors import UserError
from swamp_dist.evaluate.set_rows import SetRows, gather_set_rows, join_set_rows
from swamp_dist.records import InputKind, Inputs, Sets, map_tensors, take_rows

Embed = Callable[[Inputs], Tensor]
"""One encoder on one chunk: (chunk, ...) -> (chunk, D). May communicate (ZeRO-3 gathers parameters)."""
Encode = Callable[[Inputs], Sets]
"""The same of an encoder that gives sets."""
_Given = TypeVar("_Given", Tensor, Sets)


class Reader(Protocol):
    """Random access to the decoded entries of one split."""

    def read(self, indices: Sequence[int]) -> Sequence[Entry]:
        """The entries at these positions, in this order."""

    def misfit(self, index: int, finding: str, is_damaged: bool = True) -> UserError:
        """The error of an entry that was read and cannot be used."""


@dataclass(frozen=True)
class Embedded:
    """All items of one field of a split, in manifest order; equal on all ranks."""

    rows: Tensor
    """(n, D) float32."""
    entry: Tensor
    """(n,) int64: position in the split of the entry an item belongs to."""
    label: Tensor
    """(n,) int64: class of that entry, -1 where it has none."""

    def take(self, index: Tensor) -> Embedded:
        """The items at these positions, (k,) int64."""
        return Embedded(self.rows[index], self.entry[index], self.label[index])


@dataclass(frozen=True)
class EncodedSets:
    """`Embedded` of a model that gives sets."""

    rows: SetRows
    entry: Tensor
    label: Tensor

    def take(self, index: Tensor) -> EncodedSets:
        """As `Embedded.take`."""
        return EncodedSets(self.rows.take(index), self.entry[index], self.label[index])


@dataclass(frozen=True)
class _Block:
    """Items of `chunk` consecutive entries: the unit that is dealt to ranks."""

    items: np.ndarray
    """(n, ...) as stored: words are ids still, images, texts and sets objects."""
    owner: Tensor
    """(n, 4) int64: entry, class, and 128 bits that tell inputs apart."""


def embed_split(
    embed: Embed,
    reader: Reader,
    inputs: FieldInputs,
    num_entries: int,
    several: bool,
    chunk: int,
    world: World,
) -> Embedded:
    """Embed all items of the field of `inputs`, each once, on all ranks together.

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
        inputs: makes of stored items what `embed` takes; without random changes here.
        num_entries: entries of the split, at least 1.
        several: whether an array of the field holds several items (a leading axis).
        chunk: items embedded at a time.

    Raises:
        UserError: an entry is damaged (ShardError) or too large, on the rank that reads it.
    """
    parts, owners = [], []
    for given, owner, kept in _rounds(embed, reader, inputs, num_entries, several, chunk, world):
        parts.append(gather(torch.cat([rows.float() for rows in given]), world)[kept])
        owners.append(owner)
    rows, owner = torch.cat(parts), torch.cat(owners)
    return Embedded(rows[_first_equal(owner[:, 2:])], owner[:, 0], owner[:, 1])


def encode_split(
    encode: Encode,
    reader: Reader,
    inputs: FieldInputs,
    num_entries: int,
    several: bool,
    chunk: int,
    world: World,
) -> EncodedSets:
    """`embed_split` of an encoder that gives sets, for a score of pairs of them."""
    parts, owners = [], []
    for given, owner, kept in _rounds(encode, reader, inputs, num_entries, several, chunk, world):
        parts.append(gather_set_rows(given, kept, world))
        owners.append(owner)
    rows, owner = join_set_rows(parts), torch.cat(owners)
    return EncodedSets(rows.take(_first_equal(owner[:, 2:])), owner[:, 0], owner[:, 1])


def _rounds(
    embed: Callable[[Inputs], _Given],
    reader: Reader,
    inputs: FieldInputs,
    num_entries: int,
    several: bool,
    chunk: int,
    world: World,
) -> Iterator[tuple[list[_Given], Tensor, Tensor]]:
    """What my calls of `embed` gave for one block per rank, equally many on all ranks; the owners of all
    blocks' items, and where these are among the rows of all ranks."""
    for i in range(-(-num_entries // (chunk * world.size))):
        start = (i * world.size + world.rank) * chunk
        rows = range(start, min(start + chunk, num_entries))
        block = _read_block(reader, inputs, several, rows)
        yield _embed_round(embed, block, inputs, reader, chunk, world)


def _first_equal(marks: Tensor) -> Tensor:
    """(n,) int64: for each row of `marks` (n, 2) the first row that equals it."""
    _, first, place = np.unique(marks.cpu().numpy(), axis=0, return_index=True, return_inverse=True)
    return torch.from_numpy(first[place.reshape(-1)]).to(marks.device)


def _read_block(reader: Reader, inputs: FieldInputs, several: bool, indices: range) -> _Block:
    """Items of the entries at `indices`. Past the end of the split: entry 0 as filler, with no owner."""
    entries = reader.read(list(indices) or [0])
    arrays = [_items(e.arrays[inputs.field], inputs.kind, several) for e in entries]
    counts = torch.tensor([len(x) if indices else 0 for x in arrays])
    owner = torch.tensor([(e.index, e.label) for e in entries]).repeat_interleave(counts, dim=0)
    items = np.concatenate(arrays)
    return _Block(items, torch.cat([owner, _marks(items[: len(owner)])], dim=1))


def _items(array: np.ndarray, kind: InputKind, several: bool) -> np.ndarray:
    """(n, ...) the items of one entry; its one set is an object."""
    if kind == "set":
        return array_objects([array])
    return array if several else array[None]


def _marks(items: np.ndarray) -> Tensor:
    """(n, 2) int64: 128 bits of a hash of every item."""
    digests = [hashlib.blake2b(_content(item), digest_size=16).digest() for item in items]
    return torch.from_numpy(np.frombuffer(b"".join(digests), dtype=np.int64).reshape(-1, 2).copy())


def _content(item: np.ndarray | bytes | str) -> bytes:
    if isinstance(item, str):
        return item.encode()
    return item if isinstance(item, bytes) else item.tobytes()


@torch.no_grad()
def _embed_round(
    embed: Callable[[Inputs], _Given],
    block: _Block,
    inputs: FieldInputs,
    reader: Reader,
    chunk: int,
    world: World,
) -> tuple[list[_Given], Tensor, Tensor]:
    """Embed one block per rank; as `_rounds`, in rank order, the order of the blocks."""
    mine = torch.tensor([len(block.owner)], device=world.device)
    counts = gather(mine, world).tolist()
    calls = max(1, -(-max(counts) // chunk))
    parts = (_chunk(block, i, inputs, reader, chunk, world) for i in range(0, calls * chunk, chunk))
    given = [embed(part) for part in parts]
    owner = gather(_fill(block.owner, calls * chunk).to(world.device), world)
    kept = torch.cat([torch.arange(n, device=owner.device) + r * calls * chunk for r, n in enumerate(counts)])
    return given, owner[kept], kept


def _chunk(
    block: _Block, start: int, inputs: FieldInputs, reader: Reader, chunk: int, world: World
) -> Inputs:
    """The items from `start` on, on the device and as the training stream hands them to the encoder; the last
    one again where there are fewer than `chunk`."""
    first = min(start, len(block.items) - 1)
    entries = block.owner[:, 0].tolist()
    made = inputs.make(
        block.items[first : start + chunk],
        lambda row, finding, damaged: reader.misfit(entries[first + row] if entries else 0, finding, damaged),
    )
    last = min(start + chunk, len(block.items)) - first - 1
    filled = take_rows(made, torch.arange(chunk).clamp(max=last))
    return map_tensors(filled, lambda rows: _move(rows, world))


def _move(rows: Tensor, world: World) -> Tensor:
    moved = rows.to(world.device)
    return moved.float() if moved.dtype == torch.float16 else moved


def _fill(items: Tensor, length: int) -> Tensor:
    """The first axis brought to `length` by repeating the last row (zeros where there is no row)."""
    if len(items) > length:
        return items[:length]
    last = items[-1:] if len(items) else items.new_zeros((1, *items.shape[1:]))
    return torch.cat([items, last.expand(length - len(items), *items.shape[1:])])
