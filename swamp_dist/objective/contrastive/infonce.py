"""Form `infonce`: the cross-entropy of the partner among all, both ways (van den Oord et al. 2018, eq. 4;
symmetric as in CLIP, Radford et al. 2021, figure 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from swamp_dist.distributed import World, max_over_ranks, sum_over_ranks
from swamp_dist.objective.contrastive.tiles import Side, Sums, Tile


@final
@dataclass(frozen=True)
class InfoNce:
    """(1/2B) sum_i -log softmax_j(z_ij)_i - log softmax_j(z_ji)_i, with logits z_ij = scale * x_ij.

    Of several positives P(i), `supcon` is the mean over P(i) of -log softmax (Khosla et al. 2020, eq. 2: the
    sum outside of the logarithm); `mil_nce` is -log of the sum over P(i) of softmax (Miech et al. 2020,
    eq. 1), which leaves it to the model which positive is one. That paper joins the negatives of both
    directions in one normaliser; here each direction has its own, as for one positive. Soft targets are those
    of `pair_targets`. With weights w_ij of pairs (`negative_weights`) softmax_j(z_ij) is w_ij e^(z_ij)
    over its sum, and partners weigh 1.
    """

    scale: Tensor
    """0-d."""
    joins_positives: bool = False
    """`mil_nce`; of one positive both are the same."""
    is_normalised = True

    def unit(self, local_pairs: int, pairs: int) -> float:
        """A mean over both directions and my pairs."""
        return 1 / (2 * local_pairs)

    def scan(self, tile: Tile) -> None:
        """Add the tile to the normalisers of its rows and columns, and its positives."""
        logits = self._logits(tile)
        for side, dim in ((tile.rows, 1), (tile.columns, 0)):
            torch.logaddexp(side.log_sum, logits.logsumexp(dim=dim), out=side.log_sum)
        if tile.targets is not None:
            tile.rows.positive.add_((tile.targets.sum(dim=0) * logits).sum(dim=1) / 2)
        elif tile.matches is None:
            _of_partners(tile.rows.positive, tile).copy_(logits.diagonal(tile.offset))
        elif not self.joins_positives:
            assert tile.num_positives is not None
            of_positives = logits.masked_fill(~tile.matches, 0).sum(dim=1)
            tile.rows.positive.add_(of_positives / tile.num_positives)
        else:
            logits.masked_fill_(~tile.matches, -torch.inf)
            for side, dim in ((tile.rows, 1), (tile.columns, 0)):
                of_positives = logits.logsumexp(dim=dim)
                torch.logaddexp(side.log_sum_positive, of_positives, out=side.log_sum_positive)

    def add_ranks(self, columns: Side, world: World) -> None:
        """Make the normalisers of columns those of all ranks' rows: a MAX and a SUM of (B,), of (2, B) for
        `mil_nce`. A NaN that a MAX loses is in the sum."""
        if world.size == 1:
            return
        sums = [columns.log_sum, columns.log_sum_positive][: 2 if self.joins_positives else 1]
        whole = torch.stack(sums)
        largest = max_over_ranks(whole.clone(), world)
        total = sum_over_ranks((whole - largest).exp_(), world).log_().add_(largest)
        for mine, of_all in zip(sums, total, strict=True):
            mine.copy_(of_all)

    def loss(self, rows: Side, columns: Side) -> Tensor:
        """Sum over my pairs, both directions, 0-d. `columns` are those of my pairs.

        A column's positives are counted by the rows that hold them, so that a rank needs no other's.
        """
        positive = rows.positive
        if self.joins_positives:
            return (rows.log_sum - rows.log_sum_positive + columns.log_sum - columns.log_sum_positive).sum()
        return (rows.log_sum - positive + (columns.log_sum - positive)).sum()

    def pull(self, tile: Tile, sums: Sums) -> None:
        """As `Form.pull`."""
        logits = self._logits(tile)
        pulls = self._probabilities(logits, tile.rows.log_sum, tile.columns.log_sum)
        if tile.targets is not None:
            pulls -= tile.targets[0]
            pulls -= tile.targets[1]
        elif tile.matches is None:
            pulls.diagonal(tile.offset).sub_(2)
        elif not self.joins_positives:
            assert tile.num_positives is not None
            pulls -= tile.matches * (2 / tile.num_positives.to(pulls.dtype))[:, None]
        else:
            of_positives = self._probabilities(
                logits, tile.rows.log_sum_positive, tile.columns.log_sum_positive
            )
            pulls -= of_positives.masked_fill_(~tile.matches, 0)
        sums.on_scale += torch.dot(pulls.flatten(), tile.scores.flatten())
        torch.mul(pulls, self.scale, out=tile.scores)

    def _logits(self, tile: Tile) -> Tensor:
        """z_ij + log w_ij (n, C)."""
        logits = tile.scores * self.scale
        return logits if tile.weights is None else logits.add_(tile.weights.log())

    def _probabilities(self, logits: Tensor, of_rows: Tensor, of_columns: Tensor) -> Tensor:
        """Softmax over columns plus softmax over rows, (n, C)."""
        return (logits - of_rows[:, None]).exp_().add_((logits - of_columns).exp_())


def _of_partners(values: Tensor, tile: Tile) -> Tensor:
    """Values (n,) of the rows whose partner is in the tile, as a view."""
    first = max(0, -tile.offset)
    return values[first : first + tile.partners.numel()]
