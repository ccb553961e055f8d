"""Embeddings of a batch, as soft targets of `infonce` compare them.

Shape letters: b pairs on this rank, B in the global batch, D embedding size, n rows and C columns of a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from swamp_dist.distributed import World

Shares = Callable[[slice, slice], Tensor]
"""P (2, n, C) of some of my rows and some columns: of anchors b, the rows, then of anchors a, the columns."""
Found = tuple[Shares, dict[str, Tensor]]
"""P of a batch, and 0-d figures by metric tag."""


@dataclass(frozen=True)
class BatchRows:
    """Embeddings of a batch, without gradient."""

    a: Tensor
    """(b, D) of this rank."""
    b: Tensor
    all_a: Tensor
    """(B, D)"""
    all_b: Tensor | None
    """None where the kind does not compare with them."""
    world: World
    first_row: int
    """Position of my first pair in the global batch."""

    def blocks(self, chunk: int | None) -> list[slice]:
        """All columns, at most `chunk` at a time."""
        size = chunk or len(self.all_a)
        return [slice(start, start + size) for start in range(0, len(self.all_a), size)]

    def gathered_b(self, kind: str) -> Tensor:
        """The b of all ranks (B, D).

        Raises:
            ValueError: they were not gathered, though targets of this kind compare with them.
        """
        if self.all_b is None:
            raise ValueError(f"{kind}: `placement.gathered_sides` has to gather b")
        return self.all_b
