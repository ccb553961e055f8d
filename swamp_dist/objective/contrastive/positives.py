"""Which other pairs of the batch are positives of a pair."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from swamp_dist.distributed import World, gather


@dataclass(frozen=True)
class Positives:
    """Pairs with equal keys are positives of each other."""

    keys: Tensor
    """(B,) integers, in the order of ranks."""
    counts: Tensor
    """(B,) positives of each pair, itself among them."""

    def matches(self, rows: slice, columns: slice) -> Tensor:
        """(n, C) of some pairs as rows and some as columns, by their positions in the global batch."""
        return self.keys[rows, None] == self.keys[None, columns]

    def num_negatives(self) -> Tensor:
        """Pairs (i, j) of the whole batch that do not match, 0-d."""
        return (len(self.keys) - self.counts).sum()


def find_positives(keys: Tensor, world: World) -> Positives:
    """The positives of a batch, of which this rank holds pairs with integer keys (b,). All ranks call it."""
    everyone = gather(keys, world)
    order = everyone.sort().values
    counts = torch.searchsorted(order, everyone, right=True) - torch.searchsorted(order, everyone)
    return Positives(everyone, counts)
