"""A tile of the batch's similarities, and what is found of its rows and columns.

The one matrix is y = b . a^T: row i is the b of pair i, column j the a of pair j, and y_ij is the similarity
x_ji of a_j and b_i. Shape letters: n rows and C columns of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Side(NamedTuple):
    """Some pairs as rows or as columns, and what the tiles so far found of them; (n,) each."""

    own: Tensor
    """x_ii: similarity of a pair's a and b."""
    hardest: Tensor
    """Largest similarity with a pair that does not match; of a logged step."""
    on_own: Tensor
    """dL/dx_ii, where a form subtracts it; in units of `Form.unit`."""
    log_sum: Tensor
    """log sum_j exp(z_ij) over all columns (or rows), where a form has logits z that it normalises."""
    log_sum_positive: Tensor
    """The same over positives alone."""
    positive: Tensor
    """Mean of z_ij over positives, where a form needs it."""

    def part(self, where: slice) -> Side:
        """Some of the pairs, in the same memory."""
        return Side(*(values[where] for values in self))


def new_side(own: Tensor) -> Side:
    """Pairs with similarities `own` (n,) of which nothing is found yet."""
    none = torch.full((3, len(own)), -torch.inf, dtype=own.dtype, device=own.device)
    zero = torch.zeros_like(none[:2])
    return Side(own, none[0], zero[0], none[1], none[2], zero[1])


class Tile(NamedTuple):
    """Similarities of some of my rows with some columns."""

    scores: Tensor
    """(n, C) y_ij; a form leaves dL/dy_ij in it, in units of `Form.unit`."""
    rows: Side
    columns: Side
    offset: int
    """Column that is the partner of row 0; row i's is `offset + i`, which may lie outside of the tile."""
    weights: Tensor | None = None
    """(n, C), where pairs weigh differently."""
    matches: Tensor | None = None
    """(n, C): which pairs are positives, with the partners; None where partners are the only ones."""
    num_positives: Tensor | None = None
    """(n,) positives of each row in the whole batch; None where there is one."""
    targets: Tensor | None = None
    """(2, n, C) soft targets of anchors that are rows, then columns; None where the partner has all."""

    @property
    def partners(self) -> Tensor:
        """The similarities of rows with their own partners, as a view; empty where the tile has none."""
        return self.scores.diagonal(self.offset)


@dataclass
class Sums:
    """What all tiles of a rank add up to; 0-d, in units of `Form.unit` but for the last two."""

    loss: Tensor
    on_scale: Tensor
    on_bias: Tensor
    negatives: Tensor
    """Sum of the similarities of pairs that do not match."""
    target_entropy: Tensor
    """Sum over my anchors, as rows and as columns, of the entropy of soft targets; of a logged step."""


def new_sums(like: Tensor) -> Sums:
    """Nothing yet, in the dtype of `like`."""
    return Sums(*torch.zeros(5, dtype=like.dtype, device=like.device).unbind())


class Form(Protocol):
    """A contrastive loss, told tile by tile. Tiles come in any order; each is pulled once."""

    @property
    def is_normalised(self) -> bool:
        """Whether every tile has to be scanned before the first is pulled."""

    def unit(self, local_pairs: int, pairs: int) -> float:
        """What one unit of the sums is in this rank's loss; its mean over ranks is the loss of the batch."""

    def scan(self, tile: Tile) -> None:
        """Note in its sides what `pull` will need; the scores stay."""

    def pull(self, tile: Tile, sums: Sums) -> None:
        """Add the tile's part of the loss; dL/dy takes the place of its scores, and what other gradients it
        has is added to its sides and to `sums`."""


def note_negatives(tile: Tile, sums: Sums, *, keeps_hardest: bool = True) -> None:
    """Add up the similarities of pairs that do not match, and keep the largest of each row and column where
    it is asked for: two more passes over the tile.

    A NaN stays, since neither `amax` nor `maximum` passes over one.
    """
    if tile.matches is not None:
        sums.negatives += tile.scores.masked_fill(tile.matches, 0).sum()
        if keeps_hardest:
            _keep_largest(tile, tile.scores.masked_fill(tile.matches, -torch.inf))
        return
    partners = tile.partners
    kept = partners.clone()
    partners.zero_()
    sums.negatives += tile.scores.sum()
    if keeps_hardest:
        partners.fill_(-torch.inf)
        _keep_largest(tile, tile.scores)
    partners.copy_(kept)


def _keep_largest(tile: Tile, scores: Tensor) -> None:
    for side, dim in ((tile.rows, 1), (tile.columns, 0)):
        torch.maximum(side.hardest, scores.amax(dim=dim), out=side.hardest)
