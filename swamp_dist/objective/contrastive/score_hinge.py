"""The hinge forms on scores that were made pair by pair, where there are no embeddings to compare.

Shape letters: b pairs on this rank, B pairs in the global batch. S_ij is the score of a_i and b_j, pair i the
i-th of the batch in the order of ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swamp_dist.objective.contrastive.compare import Compared


def score_hinge(
    scores: Tensor, first_row: int, count: int, margin: float, hardest: bool, matches: Tensor | None = None
) -> Compared:
    """One of two forms of the hinge over my pairs i, both directions; its mean over ranks is the batch's.

    hardest: (1/b) sum_i [m + max_j S_ij - S_ii]+ + [m + max_j S_ji - S_ii]+, j != i (paper, eq. 1);
    all: (1/bB) sum_ij [m + S_ij - S_ii]+ + [m + S_ji - S_ii]+, with j = i as published.

    A nan reaches the loss. A direction in which a pair has no negative gives 0.

    Args:
        scores: (B, B) of the whole batch, with gradient.
        first_row: position of my first pair.
        count: b.
        margin: m.
        hardest: which form.
        matches: (B, B) True where two pairs are positives of each other; they are left out, but for a pair
            and itself. None: every other pair is a negative.
    """
    mine = slice(first_row, first_row + count)
    own = scores.diagonal()[mine]
    out = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    out = (out if matches is None else matches | out)[mine]
    is_alone = out.all(1)
    directions = scores[mine], scores[:, mine].t()
    # 1. The hardest negative of each of my pairs, the first of equals, and what they score on average.
    with torch.no_grad():
        tops = [x.masked_fill(out, -torch.inf).max(dim=1) for x in directions]
        largest = torch.stack([top.values.masked_fill(is_alone, 0).mean() for top in tops]).mean()
        negative = directions[0].masked_fill(out, 0).sum() / (~out).sum().clamp(min=1)
    # 2. The hinges of one negative, or of all.
    if hardest:
        chosen = [x.gather(1, top.indices[:, None])[:, 0] for x, top in zip(directions, tops, strict=True)]
        hinges = [(margin + x - own).masked_fill(is_alone, 0).relu() for x in chosen]
        return Compared((hinges[0] + hinges[1]).mean(), negative, largest)
    hinges = [(margin + x - own[:, None]).masked_fill(out, 0).relu().sum() for x in directions]
    loss = (hinges[0] + hinges[1]) / (count * len(scores)) + 2 * margin / len(scores)
    return Compared(loss, negative, largest)
