"""Column masses of the first iteration of a cold start, under u = v = 1.

They are the sums of exp(s / epsilon), as SwAV takes them, or those of the paper's literal cost
C = -log softmax(s / tau) under eta = tau / epsilon: exp(-eta * C) = softmax(s / tau)^eta, which has another
factor in each row. A row's normalisation removes it in every later iteration, but not from this one.

Shape letters: M problems solved together (the two modalities), n rows here, m of them in a block, K
prototypes.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from swamp_dist.objective.solve import masses


def _literal_offset(scores: Tensor, tau: float) -> Tensor:
    """(m, 1): what scores (m, K) have to gain for exp(s / epsilon) to be that of the paper's cost.

    exp(-eta * -log softmax(s / tau)) = exp((s - tau * logsumexp(s / tau)) / epsilon). With ln K taken off, a
    factor common to all rows, the offset of cosines lies in -1..1 as they do.
    """
    return (torch.logsumexp(scores / tau, dim=1, keepdim=True) - math.log(scores.shape[1])).mul_(-tau)


def _factors(problem: masses.Problem, scores: Tensor, weights: Tensor | None) -> Tensor | None:
    """(M, m) or (m,): what rows of scores (M, m, K) count in the first masses; None for 1."""
    if problem.literal is None or scores.shape[1] == 0:
        return weights
    factors = scores.new_empty(scores.shape[:2])
    parts = masses.row_blocks(scores, factors[:, :, None], weights)
    for _, rows, out, of_rows in parts:
        torch.mul(_literal_offset(rows, problem.literal), problem.scale, out=out).exp2_()
        if of_rows is not None:
            out *= of_rows[:, None]
    return factors


def cold_masses(problem: masses.Problem) -> Tensor:
    """log2 of the column sums (M, K) of the start's kernel: the masses under u = v = 1."""

    def first_scores(block: masses.RowBlock) -> Tensor:
        scores = block.scores
        if problem.literal is not None:
            scores = torch.add(scores, _literal_offset(scores, problem.literal), out=block.kernel)
        if block.weights is not None:
            scores = torch.add(scores, block.weights.log2()[:, None], out=block.kernel)  # -inf or as it is
        return scores

    top = problem.vectors(-torch.inf)
    for block in problem.rows():
        torch.maximum(top[block.side], first_scores(block).amax(dim=0), out=top[block.side])
    top, sums = problem.max(top) * problem.scale, problem.vectors(0.0)
    for block in problem.rows():
        torch.add(-top[block.side], first_scores(block), alpha=problem.scale, out=block.kernel)
        problem.exponentiate(block.kernel)
        sums[block.side] += block.column_sums()
    return problem.sum(sums).log2_() + top


def direct_cold_masses(problem: masses.Problem) -> Tensor:
    """`cold_masses` of scores whose range is known: no maxima are asked for, and the kernel is kept."""
    if problem.is_compiled:
        return problem.sum(problem.compiled_sums(None, None, partial(_factors, problem))).log2_()
    sums = problem.vectors(0.0)
    if problem.is_fused:
        fused = masses.fused_passes()
        for scores, weights in problem.score_blocks():
            factors = weights
            if problem.literal is not None:
                log2_z = fused.log2_row_sums(scores, masses.LOG2_E / problem.literal) - math.log2(
                    scores.shape[2]
                )
                factors = log2_z.mul_(-problem.scale * problem.literal / masses.LOG2_E).exp2_()
                factors = factors if weights is None else factors.mul_(weights)
            sums += fused.plain_sums(scores, problem.scale, factors)
        return problem.sum(sums).log2_()
    for block in problem.direct_kernels():
        factors = None
        if problem.literal is not None:
            factors = _literal_offset(block.scores, problem.literal).mul_(problem.scale).exp2_()[:, 0]
        sums[block.side] += block.column_sums(factors)
    return problem.sum(sums).log2_()
