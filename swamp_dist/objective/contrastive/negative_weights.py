"""How much the negatives of `infonce` count, by SwAMP's targets of both items.

With q^A_i and q^B_i the swapped targets of a_i and b_i (eq. 3), the pair of a_i and b_j weighs
w_ij = 1 - <q^A_i, q^B_j> in the normalisers of both, and partners weigh 1:
(1/2B) sum_i -log e^(z_ii) / sum_j w_ij e^(z_ij) - log e^(z_ii) / sum_j w_ji e^(z_ji). Items that the balanced
assignment puts into the same classes are then no negatives, which takes from InfoNCE what SwAMP asks for. No
gradient goes through the weights. Nearest in print: debiased contrastive learning (Chuang et al. 2020, arXiv
2007.00224) corrects for negatives of the same class without saying which they are, and codebook alignment
(CODIS, Duan et al. 2022, arXiv 2203.00048) has the assignments, but weighs no negatives by them.

Shape letters: b pairs on this rank, B in the global batch, K prototypes, n rows and C columns of a tile.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from swamp_dist.distributed import World, gather
from swamp_dist.records import SoftTargets

PairWeights = Callable[[slice, slice], Tensor]
"""Weights (n, C) of some of my rows and some columns."""


def negative_weights(targets: SoftTargets, world: World) -> tuple[PairWeights, Tensor]:
    """Weights of my rows b and all columns a, and their mean over the negatives of my rows, 0-d. All ranks
    call it: a gather of the targets of a, (B, K) on every rank.

    Args:
        targets: of my pairs, (b, K) a side, without gradient.
    """
    of_rows, of_columns = targets.b, gather(targets.a, world)
    first_row = world.rank * len(of_rows)

    def weights(rows: slice, columns: slice) -> Tensor:
        agreement = of_rows[rows] @ of_columns[columns].t()
        found = agreement.neg_().add_(1).clamp_(min=0)  # rounding may take a product above 1
        found.diagonal(first_row + rows.start - columns.start).fill_(1)
        return found

    partners = (targets.a * targets.b).sum()
    agreements = of_rows.sum(dim=0) @ of_columns.sum(dim=0) - partners
    return weights, 1 - agreements / max(len(of_rows) * (len(of_columns) - 1), 1)
