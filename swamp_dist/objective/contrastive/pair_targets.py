"""Soft targets of `infonce`: other items of the batch that a pair should score besides its partner.

With z_ij the logit of a_i and b_j, T^a the targets of anchors a_i over all b_j and T^b those of anchors b_i
over all a_j, the loss is (1/2B) sum_ij -T^a_ij log softmax_j(z_ij) - T^b_ij log softmax_j(z_ji), where
T = (1 - w) I + w P. P has no gradient and each of its rows sums to 1:
`within_modality` (SoftCLIP, Gao et al. 2024, arXiv 2303.17561): P^a_ij = softmax_j(a_i . a_j / t), P^b_ij
from b alike. The paper compares with features of an object detector, takes both directions of the KL
divergence and treats negatives once more by themselves; here embeddings guide each other, and the
cross-entropy is KL(T | p) up to a constant.
`balanced_plan` (OTTER, Wu et al. 2022, arXiv 2112.09445): a transport plan of the batch, see `balanced_plan`;
`pseudo_positives` (after PCME++, Chun 2024, arXiv 2305.18171, section 3.3): P^a_ij = 1 / n_i for the n_i
items with x_ij >= x_ii, the partner among them. The paper adds the loss of each of them with a small weight
under a sigmoid; here they share w.

Tiles are those of `compare`: row i is the b of pair i, column j the a of pair j. Shape letters: b pairs on
this rank, B in the global batch, D embedding size, n rows and C columns of a tile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from swamp_dist.config import PairTargetSettings
from swamp_dist.distributed import gather, sum_over_ranks
from swamp_dist.objective.contrastive.balanced_plan import balanced_plan
from swamp_dist.objective.contrastive.batch_rows import BatchRows, Found, Shares

_ROUNDING = 8
"""Units of the last place by which two scores of equal items may differ."""


@dataclass(frozen=True)
class PairTargets:
    """Targets of my rows and all columns."""

    weight: float
    first_row: int
    """Position of my first pair in the global batch."""
    shares: Shares
    figures: Mapping[str, Tensor] = field(default_factory=dict)
    """0-d tensors by metric tag."""

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """T (2, n, C) of some of my rows and some columns: T^b, then the transpose of T^a."""
        found = self.shares(rows, columns) * self.weight
        offset = self.first_row + rows.start - columns.start
        found.diagonal(offset, dim1=1, dim2=2).add_(1 - self.weight)
        return found

    def kept(self, rows: int, columns: int) -> PairTargets:
        """The same with P of all rows and columns made once, (2, b, B)."""
        table = self.shares(slice(0, rows), slice(0, columns))
        return PairTargets(
            self.weight,
            self.first_row,
            lambda some_rows, some_columns: table[:, some_rows, some_columns],
            self.figures,
        )


def find_pair_targets(
    settings: PairTargetSettings, batch: BatchRows, chunk: int | None
) -> PairTargets | None:
    """The targets of a batch; None where these are the partners. All ranks call it.

    Args:
        chunk: columns of a tile; with fewer than all, P is made anew for every tile.
    """
    if not settings.is_soft:
        return None
    with torch.no_grad():
        kinds = {
            "within_modality": _within_modality,
            "balanced_plan": balanced_plan,
            "pseudo_positives": _pseudo_positives,
        }
        shares, figures = kinds[settings.kind](settings, batch, chunk)
        found = PairTargets(settings.weight, batch.first_row, shares, figures)
        columns = len(batch.all_a)
        return found.kept(len(batch.b), columns) if (chunk or columns) >= columns else found


def _within_modality(settings: PairTargetSettings, batch: BatchRows, chunk: int | None) -> Found:
    sides = ((batch.b, batch.gathered_b("within_modality")), (batch.a, batch.all_a))

    def logits(rows: slice, columns: slice) -> Tensor:
        products = [mine[rows] @ everyone[columns].t() for mine, everyone in sides]
        return torch.stack(products).div_(settings.temperature)

    whole = slice(0, len(batch.b))
    sums = batch.b.new_full((2, len(batch.b)), -torch.inf)
    for block in batch.blocks(chunk):
        torch.logaddexp(sums, logits(whole, block).logsumexp(dim=2), out=sums)
    of_rows, of_mine = sums  # similarities within a modality are symmetric
    of_columns = gather(of_mine, batch.world)

    def shares(rows: slice, columns: slice) -> Tensor:
        found = logits(rows, columns)
        found[0] -= of_rows[rows, None]
        found[1] -= of_columns[columns]
        return found.exp_()

    return shares, {}


def _pseudo_positives(_: PairTargetSettings, batch: BatchRows, chunk: int | None) -> Found:
    own = (batch.a * batch.b).sum(dim=1)
    least = gather(own, batch.world) - _ROUNDING * torch.finfo(own.dtype).eps
    mine = slice(batch.first_row, batch.first_row + len(own))

    def likely(rows: slice, columns: slice) -> Tensor:
        scores = batch.b[rows] @ batch.all_a[columns].t()
        found = torch.stack((scores >= least[mine][rows, None], scores >= least[columns]))
        offset = batch.first_row + rows.start - columns.start
        found.diagonal(offset, dim1=1, dim2=2).fill_(True)
        return found

    whole = slice(0, len(own))
    of_rows, of_columns = torch.zeros_like(own), torch.zeros_like(least)
    for columns in batch.blocks(chunk):
        found = likely(whole, columns)
        of_rows += found[0].sum(dim=1)
        of_columns[columns] = found[1].sum(dim=0).to(least.dtype)
    of_columns = sum_over_ranks(of_columns, batch.world)

    def shares(rows: slice, columns: slice) -> Tensor:
        found = likely(rows, columns).to(own.dtype)
        found[0] /= of_rows[rows, None]
        found[1] /= of_columns[columns]
        return found

    others = (of_rows.mean() + of_columns[mine].mean()) / 2 - 1
    return shares, {"contrastive/pseudo_positives": others / max(len(least) - 1, 1)}
