"""Scores, swapped targets, the cross-entropy against them, and the figures that show a collapse early.

Shape letters: b pairs on this rank, B in the global batch, n rows of the queue, D embedding size, K
prototypes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.distributed import World, sum_over_ranks
from swamp_dist.objective.products import full_precision
from swamp_dist.objective.queue import Queue
from swamp_dist.objective.solve.scores import ScorePrecision, operand, score_product
from swamp_dist.objective.solve.sinkhorn import SinkhornSolution, assign
from swamp_dist.records import SoftTargets


def queue_scores(
    queue: Queue,
    rows: slice,
    prototypes: Tensor,
    out: Tensor | None = None,
    precision: ScorePrecision = "float32",
) -> Tensor:
    """Similarities (2, n, K) of the queue's rows with prototypes (K, D), modality A, then B; in `out` if
    given."""
    sides = [side[rows] for side in (queue.operands if precision == "bfloat16" else (queue.a, queue.b))]
    if out is None:
        out = prototypes.new_empty(2, len(sides[0]), len(prototypes))
    with torch.no_grad(), full_precision(prototypes.device.type):
        columns = operand(prototypes, precision)
        for side, scores in zip(sides, out, strict=True):
            score_product(side, columns, scores)
    return out


def swapped_targets(
    scores_a: Tensor,
    scores_b: Tensor,
    solution: SinkhornSolution,
    epsilon: float,
    assignment: Literal["soft", "hard"] = "soft",
    *,
    is_compiled: bool = False,
) -> SoftTargets:
    """q^A and q^B of my rows (eq. 3) from their scores (b, K) and the potentials (2, K) of [A, B].

    Swapped: the targets for a come from the scores of b, and the reverse. `hard` keeps the largest entry.
    `is_compiled` as in `assign`.
    """
    with torch.no_grad():
        scores = torch.stack((scores_a, scores_b))
        q = assign(scores, solution.log_v, epsilon, is_compiled=is_compiled)
        if assignment == "hard":
            q = functional.one_hot(_largest(q, scores, epsilon), q.shape[2]).to(q.dtype)
    return SoftTargets(q[1], q[0], solution.marginal_error, solution.iterations, solution.repeats)


def _largest(q: Tensor, scores: Tensor, epsilon: float) -> Tensor:
    """Index (2, b) of the largest entry of each row of q; of equals, that of the highest score.

    At small epsilon equals are common: prototypes that one row alone fills get the same share of it. Rounding
    must not choose among them, or the choice would depend on how many ranks summed the masses.
    """
    rounding = min(8 * torch.finfo(q.dtype).eps / epsilon, 0.5)
    equal = q >= (1 - rounding) * q.amax(dim=2, keepdim=True)
    return scores.masked_fill(~equal, -torch.inf).argmax(dim=2)


def soft_cross_entropy(
    scores_a: Tensor, scores_b: Tensor, targets: SoftTargets, temperature: float
) -> Tensor:
    """L_s (eq. 4) on my rows: E[-sum_k q^A log p(k | a)] + E[-sum_k q^B log p(k | b)]; 0-d.

    p is the softmax of the scores (b, K) over the temperature tau (eq. 2).
    """
    return functional.cross_entropy(scores_a / temperature, targets.a) + functional.cross_entropy(
        scores_b / temperature, targets.b
    )


def target_figures(targets: SoftTargets, choices: Tensor) -> dict[str, Tensor]:
    """What tells a collapse early, over my rows: 0-d tensors by metric tag.

    `choices` (2, b) is the arg-max of each target of a and of b.
    """
    q = targets.a
    entropies = [torch.special.entr(side).sum(dim=1).mean() for side in (targets.a, targets.b)]
    return {
        "swamp/target_entropy": (entropies[0] + entropies[1]) / 2,
        "swamp/target_entropy_max": q.new_full((), math.log(q.shape[1])),
        "swamp/agreement": (choices[0] == choices[1]).to(q.dtype).mean(),
        "swamp/marginal_error": targets.marginal_error,
        "swamp/iterations": q.new_full((), targets.iterations),
        "swamp/repeats": q.new_full((), targets.repeats),
    }


def prototype_usage(choices: Tensor, prototypes: int, world: World) -> Tensor:
    """How often each prototype is chosen by the global batch: counts (K,) that sum to 2B.

    One small all-reduce: a share of distinct prototypes is no mean of the ranks' shares.
    """
    mine = choices.flatten()
    counts = mine.new_zeros(prototypes).scatter_add_(0, mine, torch.ones_like(mine))
    return sum_over_ranks(counts, world)
