"""Targets `balanced_plan`: which pairs of a batch match, as a transport plan says (OTTER, Wu et al. 2022,
arXiv 2112.09445).

The similarity of anchor a_i and candidate b_j counts all four embeddings of their pairs,
S^a_ij = a_i . a_j + b_i . b_j + a_i . b_j, and S^b_ij = a_i . a_j + b_i . b_j + b_i . a_j for anchor b_i and
candidate a_j. Partners are left out (S_ii is far below all others), so that the plan shares out what does not
belong to them: the maximum of sum_ij q_ij S_ij + epsilon H(q) in which every candidate gets as much as any
other. It is solved over all ranks by T iterations of rows, then columns, from v = 1, and its rows are
normalised: P^a_ij = softmax_j(S^a_ij / epsilon + log v^a_j). P has no gradient.

From the paper and its published code: S, the pushed down diagonal, the order of iterations, T = 5. The paper
takes the embeddings of an average of the model over time and adds the KL divergence from P, under a
temperature of its own, to InfoNCE; here the model's own embeddings make P, and one cross-entropy has both as
its target, with 1 - weight for the paper's alpha. Aligning modalities by a plan between items and learned
codes, as SwAMP does, is also that of codebooks (CODIS, Duan et al. 2022, arXiv 2203.00048), with a momentum
teacher; a plan between the items of a batch needs no codes.

Shape letters: b pairs on this rank, B in the global batch, D embedding size, n rows and C columns of a tile,
m rows of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swamp_dist.config import PairTargetSettings
from swamp_dist.distributed import gather
from swamp_dist.objective.contrastive.batch_rows import BatchRows, Found
from swamp_dist.objective.solve.sinkhorn import StreamedScores, solve

_MOST = 3.0
"""S of unit rows lies within -3 .. 3."""
_SPANS = 2
"""Potentials may differ by the span of S, in a row and in a column: so much farther down are partners."""
_NATS = 100
"""And e^-100 of any other candidate's share."""


def balanced_plan(settings: PairTargetSettings, batch: BatchRows, chunk: int | None) -> Found:
    """P of a batch. All ranks call it: an all-reduce of 2B masses per iteration, a gather of B normalisers.

    Args:
        chunk: columns of a tile. With fewer than all no more than a tile of S is held, and it is made anew
            for every iteration.
    """
    epsilon = settings.epsilon
    scores = _similarities(batch, chunk, epsilon)
    count, mine = len(batch.all_a), slice(batch.first_row, batch.first_row + len(batch.b))
    held = next(scores.blocks()) if scores.memory.shape[1] == len(batch.b) else None
    found = solve(
        scores if held is None else held,
        count,
        epsilon,
        world=batch.world,
        log_v=batch.b.new_zeros(2, count),
        iterations=settings.iterations,
    )
    log_v_b, log_v_a = found.log_v
    side, everyone = scores.sides[0], scores.prototypes  # the memory of the solve goes
    own_b, own_a = _normalisers(scores, held, found.log_v, epsilon)
    all_own_a = gather(own_a, batch.world)

    def shares(rows: slice, columns: slice) -> Tensor:
        # S^a_ji = S^b_ij: one matrix serves both directions. My items are candidates of anchors a.
        similarities = side[rows] @ everyone[columns].t() if held is None else held[0, rows, columns]
        plan = torch.stack((similarities, similarities)).div_(epsilon)
        plan[0].sub_(own_b[rows, None]).add_(log_v_b[columns])
        plan[1].sub_(all_own_a[columns]).add_(log_v_a[mine][rows, None])
        offset = batch.first_row + rows.start - columns.start
        plan.diagonal(offset, dim1=1, dim2=2).fill_(-torch.inf)
        return plan.exp_()

    return shares, {"contrastive/plan_error": found.marginal_error}


def _similarities(batch: BatchRows, chunk: int | None, epsilon: float) -> StreamedScores:
    """S^b, then S^a (2, b, B) of my anchors, as many rows at a time as a tile has numbers.

    Each is one product of rows of 2D: S^b = [a + b, b] . [a, b], S^a = [a, a + b] . [a, b].
    """
    both, count = batch.a + batch.b, len(batch.all_a)
    sides = torch.cat((both, batch.b), dim=1), torch.cat((batch.a, both), dim=1)
    columns = torch.cat((batch.all_a, batch.gathered_b("balanced_plan")), dim=1)
    rows = max(1, (chunk or count) * len(batch.b) // count)
    memory = batch.b.new_empty(2, min(rows, len(batch.b)), count)
    lowest = -_MOST - _SPANS * 2 * _MOST - _NATS * epsilon
    return StreamedScores(sides, columns, memory, own=(batch.first_row, lowest))


def _normalisers(scores: StreamedScores, held: Tensor | None, log_v: Tensor, epsilon: float) -> Tensor:
    """log sum_j exp(S_ij / epsilon + log v_j) (2, b) of my anchors b, then a."""
    blocks = scores.blocks() if held is None else (held,)
    parts = [torch.add(log_v[:, None], block, alpha=1 / epsilon).logsumexp(dim=2) for block in blocks]
    return torch.cat(parts, dim=1)
