"""Form `all`: the max-margin ranking loss over all negatives (Miech et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from swamp_dist.objective.contrastive.tiles import Sums, Tile


@final
@dataclass(frozen=True)
class MeanHinge:
    """(1/B^2) sum_ij W_ij ([m + x_ij - x_ii]+ + [m + x_ij - x_jj]+).

    The diagonal is included, as published: a constant floor of 2 m W_ii without gradient. Other positives of
    a pair are left out. The sum is divided by B^2 all the same, and not by the number of negatives: that
    number differs from batch to batch, and with it would change what the term weighs against others. A
    hinge's gradient is known with the hinge, so one visit of a tile gives both.
    """

    margin: float
    is_normalised = False

    def unit(self, local_pairs: int, pairs: int) -> float:
        """The mean over ranks of 1/(b B) is 1/B^2."""
        return 1 / (local_pairs * pairs)

    def scan(self, tile: Tile) -> None:
        """Nothing: a hinge needs no normaliser."""

    def pull(self, tile: Tile, sums: Sums) -> None:
        """As `Form.pull`."""
        floor = torch.full_like(tile.partners, 2 * self.margin)
        if tile.weights is not None:
            floor *= tile.weights.diagonal(tile.offset)
        sums.loss += floor.sum()
        self._leave_out_positives(tile)
        by_column = tile.scores
        by_row = (by_column - (tile.rows.own - self.margin)[:, None]).relu_()
        by_column.sub_(tile.columns.own - self.margin).relu_()
        for hinges in (by_row, by_column):
            sums.loss += (hinges if tile.weights is None else hinges * tile.weights).sum()
            hinges.gt_(0)
            if tile.weights is not None:
                hinges *= tile.weights
        tile.rows.on_own.sub_(by_row.sum(dim=1))
        tile.columns.on_own.sub_(by_column.sum(dim=0))
        by_column += by_row

    def _leave_out_positives(self, tile: Tile) -> None:
        """A similarity of -inf has no hinge; for partners the floor stands."""
        if tile.matches is None:
            tile.partners.fill_(-torch.inf)
        else:
            tile.scores.masked_fill_(tile.matches, -torch.inf)
