"""The contrastive term: my rows of the batch against the gathered columns, both directions.

Shape letters: b pairs on this rank, B pairs in the global batch, D embedding size. This rank holds
rows [first_row, first_row + b) of the batch, and x_ij is the similarity of a_i and b_j. Every loss is
a mean over this rank's rows, so its mean over ranks is the loss of the whole batch. The gradient is
that of the whole batch too, where columns come from `distributed.gather_rows`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Similarities(NamedTuple):
    """What this rank's pairs are compared with."""

    a_to_b: Tensor
    """(b, B): x_ij of my rows i and all columns j."""
    b_to_a: Tensor
    """(b, B): x_ji of the same."""
    first_row: int
    """Position of my first pair in the global batch."""

    @property
    def positives(self) -> tuple[Tensor, Tensor]:
        """x_ii of my pairs, twice (b, 1): read from each matrix, so that a row's hinge with itself is
        the margin exactly."""
        return self.a_to_b.diagonal(self.first_row)[:, None], self.b_to_a.diagonal(self.first_row)[:, None]


def similarities(a: Tensor, b: Tensor, all_a: Tensor, all_b: Tensor, first_row: int) -> Similarities:
    """Dot products of my a, b (b, D) with all columns all_a, all_b (B, D)."""
    return Similarities(a @ all_b.t(), b @ all_a.t(), first_row)


def entry_weights(
    my_entries: Tensor,
    all_entries: Tensor,
    num_entries: int,
    in_entry_share: float,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Weights W_ij (b, B) that give pairs of the same entry the share h of the total; their mean is 1.

    With E entries in the global batch, W = E*h inside an entry's block and E*(1-h)/(E-1) across entries
    (Miech et al. 2019). Entries (b,), (B,) are positions in the global batch, never video ids.
    """
    inside = num_entries * in_entry_share
    across = num_entries * (1 - in_entry_share) / max(num_entries - 1, 1)
    same = my_entries[:, None] == all_entries[None, :]
    return torch.full(same.shape, across, dtype=dtype, device=same.device).masked_fill_(same, inside)


def mean_over_negatives(found: Similarities, margin: float, weights: Tensor | None = None) -> Tensor:
    """Max-margin ranking over all pairs (Miech et al. 2019), on my rows; 0-d.

    (1/B^2) sum_ij W_ij ([m + x_ij - x_ii]+ + [m + x_ij - x_jj]+), where the second sum runs over
    (j, i) so that all its terms with x_ii are on the rank that holds pair i; W is symmetric. The diagonal
    is included, as published: a constant floor without gradient.
    """
    own_a, own_b = found.positives
    hinges = (margin + found.a_to_b - own_a).relu() + (margin + found.b_to_a - own_b).relu()
    return (hinges if weights is None else hinges * weights).mean()


def hardest_negatives(found: Similarities) -> tuple[Tensor, Tensor]:
    """Largest x_ij and largest x_ji over j != i of my rows, each (b, 1). Ties go to the lowest j."""
    a_to_b, b_to_a, first_row = found
    return _largest_off_diagonal(a_to_b, first_row), _largest_off_diagonal(b_to_a, first_row)


def hardest_negative(
    found: Similarities, margin: float, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Hinge with the most violating negative, both ways (paper, eq. 1), on my rows; 0-d.

    `sum` is the published sum over the batch: B times the mean on every rank, never a local sum.
    """
    own_a, own_b = found.positives
    hard_a, hard_b = hardest_negatives(found)
    loss = ((margin + hard_a - own_a).relu() + (margin + hard_b - own_b).relu()).mean()
    return loss * found.a_to_b.shape[1] if reduction == "sum" else loss


def _largest_off_diagonal(scores: Tensor, first_row: int) -> Tensor:
    with torch.no_grad():  # arg-max takes the first of equals; a max would split the gradient among them
        others = scores.detach().clone()
        others.diagonal(first_row).fill_(-torch.inf)
        index = others.argmax(dim=1, keepdim=True)
    return scores.gather(1, index)
