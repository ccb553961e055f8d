"""The columns of a comparison: gathered, or block by block around the ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from swamp_dist.distributed import Gathering, World, start_shift


class Block(NamedTuple):
    """Some columns."""

    start: int
    """Position of the first in the global batch."""
    rows: Tensor
    """(C, D)"""


class Columns(Protocol):
    """The a of all ranks, each once per lap; all ranks go around together."""

    gradient: Tensor
    """Of the tensor that the columns were made from, after `pulled`."""

    def lap(self) -> Iterator[Block]:
        """Without gradient."""

    def pulled(self) -> Iterator[tuple[Block, Tensor, bool]]:
        """Blocks, each with memory (C, D) that is to hold its gradient before the next is asked for, and
        whether it is the last."""


class Gathered:
    """All columns are here, as one block."""

    def __init__(self, all_a: Tensor) -> None:
        self._all_a = all_a
        self.gradient = all_a

    def lap(self) -> Iterator[Block]:
        """As `Columns.lap`."""
        yield Block(0, self._all_a)

    def pulled(self) -> Iterator[tuple[Block, Tensor, bool]]:
        """As `Columns.pulled`."""
        self.gradient = torch.empty_like(self._all_a)
        yield Block(0, self._all_a), self.gradient, True


class Ring:
    """Blocks move on by one rank at a time (Zhai et al. 2023, section 3.3): O(bD) is held, and the bytes sent
    are those of a gather.

    A block is on its way to the next rank while this one compares it. Its gradient follows it from the first
    other rank on and comes home after the last: the bytes of a reduce-scatter.
    """

    def __init__(self, mine: Tensor, world: World) -> None:
        self._mine, self._world = mine.detach(), world
        self.gradient = self._mine

    def lap(self) -> Iterator[Block]:
        """As `Columns.lap`."""
        held = self._mine
        for step in range(self._world.size):
            arriving = self._send_on(held, step)
            yield self._block(held, step)
            held = arriving.wait()

    def pulled(self) -> Iterator[tuple[Block, Tensor, bool]]:
        """As `Columns.pulled`."""
        held, size = self._mine, self._world.size
        following: Gathering | None = None
        for step in range(size):
            arriving, found = self._send_on(held, step), torch.empty_like(held)
            yield self._block(held, step), found, step == size - 1
            if step == 0:
                self.gradient = found
            else:
                found = found if following is None else found.add_(following.wait())
                following = start_shift(found, self._world)
            held = arriving.wait()
        if following is not None:
            self.gradient = self.gradient.add_(following.wait())

    def _send_on(self, held: Tensor, step: int) -> Gathering:
        """What will be held next; after the last step the same."""
        is_last = step == self._world.size - 1
        return Gathering(held, None, held) if is_last else start_shift(held, self._world)

    def _block(self, held: Tensor, step: int) -> Block:
        owner = (self._world.rank - step) % self._world.size
        return Block(owner * len(held), held)


def pieces(blocks: Iterator[Block], chunk: int | None) -> Iterator[Block]:
    """Blocks of at most `chunk` columns; None leaves them as they are."""
    for start, rows in blocks:
        size = chunk or len(rows)
        for first in range(0, len(rows), size):
            yield Block(start + first, rows[first : first + size])
