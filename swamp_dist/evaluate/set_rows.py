"""Sets of all items of a split, without padding, and the scores of all pairs of them.

Shape letters: n items of one modality, m of the other, E elements of all items of one, d their
length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from swamp_dist.distributed import World, gather, sum_over_ranks
from swamp_dist.records import PairScores, Sets
from swamp_dist.row_exchange import pad_alike

TILE = 64
"""Items of a, and of b, that are padded and scored together: part of the numbers' definition."""


@dataclass(frozen=True)
class SetRows:
    """n sets, one after the other."""

    values: Tensor
    """(E, d) elements of all sets."""
    counts: Tensor
    """(n,) int64: elements of each."""

    def __len__(self) -> int:
        return len(self.counts)

    def take(self, index: Tensor) -> SetRows:
        """The sets at these positions, (k,) int64."""
        counts = self.counts[index]
        first = (self.counts.cumsum(0) - self.counts)[index]
        nth = torch.arange(int(counts.sum()), device=index.device)
        nth = nth - (counts.cumsum(0) - counts).repeat_interleave(counts)
        return SetRows(self.values[first.repeat_interleave(counts) + nth], counts)

    def padded(self, rows: slice) -> Sets:
        """Some of the sets as an encoder gave them, padded to the longest of them."""
        counts = self.counts[rows]
        start = int(self.counts[: rows.start].sum())
        mask = torch.arange(max(1, int(counts.max())), device=counts.device) < counts[:, None]
        values = self.values.new_zeros(*mask.shape, self.values.shape[1])
        values[mask] = self.values[start : start + int(counts.sum())]
        return Sets(values, mask)


def set_rows(sets: Sets) -> SetRows:
    """Sets without their padding."""
    return SetRows(sets.values[sets.mask], sets.mask.sum(1))


def join_set_rows(parts: Sequence[SetRows]) -> SetRows:
    """All sets of some parts, part after part."""
    return SetRows(torch.cat([part.values for part in parts]), torch.cat([part.counts for part in parts]))


def gather_set_rows(parts: Sequence[Sets], kept: Tensor, world: World) -> SetRows:
    """The sets (b, n, d) of a rank's parts, and those of all ranks in rank order; of these the `kept`."""
    padded = pad_alike(parts, world)
    mask = gather(padded.mask.to(torch.uint8), world).bool()
    return set_rows(Sets(gather(padded.values, world)[kept].float(), mask[kept]))


def score_all(a: SetRows, b: SetRows, score: PairScores, world: World) -> Tensor:
    """The scores of all items of a with all items of b on all ranks: (n, m) float32.

    A tile of TILE x TILE items is padded and scored at a time; row i of tiles is rank i mod W's, so no number
    depends on the world size.
    """
    found = torch.zeros(len(a), len(b), device=a.values.device)
    for i in range(world.rank * TILE, len(a), world.size * TILE):
        some = a.padded(slice(i, min(i + TILE, len(a))))
        for j in range(0, len(b), TILE):
            tile = score(some, b.padded(slice(j, min(j + TILE, len(b)))))
            found[i : i + TILE, j : j + TILE] = tile.float()
    return sum_over_ranks(found, world)
