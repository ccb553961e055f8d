"""Form `sigmoid`: every pair is judged by itself (SigLIP, Zhai et al. 2023, eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.objective.contrastive.tiles import Sums, Tile


@final
@dataclass(frozen=True)
class Sigmoid:
    """(1/B) sum_ij -log sigmoid(l_ij (scale * x_ij + bias)), l_ij = 1 for positives and -1 for others.

    A mean over pairs i of the sum over all j. No term needs another's, so one visit of a tile is enough.
    """

    scale: Tensor
    """0-d."""
    bias: Tensor
    """0-d."""
    is_normalised = False

    def unit(self, local_pairs: int, pairs: int) -> float:
        """A mean over my pairs."""
        return 1 / local_pairs

    def scan(self, tile: Tile) -> None:
        """Nothing: there is no normaliser."""

    def pull(self, tile: Tile, sums: Sums) -> None:
        """As `Form.pull`."""
        losses = tile.scores * self.scale + self.bias
        _flip_positives(losses, tile)
        # -log sigmoid(-z); above 40 it is z in float64 too.
        sums.loss += functional.softplus(losses, threshold=40).sum()
        pulls = losses.sigmoid_()
        _flip_positives(pulls, tile)
        sums.on_scale += torch.dot(pulls.flatten(), tile.scores.flatten())
        sums.on_bias += pulls.sum()
        torch.mul(pulls, self.scale, out=tile.scores)


def _flip_positives(values: Tensor, tile: Tile) -> None:
    """Change the sign of positives (n, C), in place."""
    if tile.matches is None:
        values.diagonal(tile.offset).neg_()
    else:
        torch.where(tile.matches, -values, values, out=values)
