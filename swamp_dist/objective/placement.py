"""Where queue rows live and who solves them: the layout of a stage over its ranks, without tensors.

Training obeys this choice and `swamp show --cost` prints it, so both ask here.

Shape letters: B pairs in the global batch, b on this rank, D embedding size, K prototypes, C rows of the full
queue, n of them solved on this rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from swamp_dist.config import ContrastiveSettings, ObjectiveSettings
from swamp_dist.objective.costs import (
    Gathered,
    comparison_bytes,
    rounds_scores,
    score_flops,
    solve_collectives,
)
from swamp_dist.objective.memory import FLOAT, queue_bytes

GATHERED_COLUMNS_LIMIT = 2**34
"""Bytes up to which columns `auto` gathers them, with gradient and a tile: a fifth of a GPU of 80 GB. A
gather uses every link of a node at once and a shift only those to the next rank, so memory has to be worth
it."""
REPLICATED_QUEUE_LIMIT = 2**30
"""Bytes up to which layout `auto` holds the whole queue on every rank."""


def queue_capacity(size: int, batch_pairs: int, counts_batch: bool) -> int:
    """Rows that are solved together once the queue is full.

    The newest max(Q, B) rows where the batch counts into the queue (Algorithm 1), else the newest Q
    rows before the batch plus the batch (Appendix E). Either way it holds the batch exactly once.
    """
    return max(size, batch_pairs) if counts_batch else size + batch_pairs


def rank_share(rows: int, batch_pairs: int, rank: int, world_size: int) -> int:
    """How many of the newest `rows` pairs come from `rank`, counted back from the edge of a batch.

    Of a batch rank r makes the pairs [r*b, (r+1)*b), and of the oldest batch only its last
    `rows mod B` pairs are left: later ranks may hold up to b rows more than earlier ones.
    """
    batches, rest = divmod(rows, batch_pairs)
    local = batch_pairs // world_size
    left = (rank + 1) * local - (batch_pairs - rest)
    return batches * local + max(0, min(local, left))


@dataclass(frozen=True)
class Placement:
    """Where queue rows live and who solves them."""

    capacity: int
    """Rows C that are solved together once the queue is full."""
    layout: Literal["replicated", "sharded"]
    is_split: bool
    """True where each rank solves a share of the rows, False where each solves all."""

    def solved_rows(self, batch_pairs: int, rank: int, world_size: int) -> int:
        """Rows n that `rank` solves once the queue is full."""
        if not self.is_split:
            return self.capacity
        if self.layout == "sharded":
            return rank_share(self.capacity, batch_pairs, rank, world_size)
        return self.capacity * (rank + 1) // world_size - self.capacity * rank // world_size


def choose_placement(
    settings: ObjectiveSettings, batch_pairs: int, embedding_dim: int, world_size: int, on_gpu: bool
) -> Placement:
    """Resolve the layout and solve that `objective.swamp.queue` asks for; one rank holds and solves all."""
    queue, swamp = settings.swamp.queue, settings.swamp
    capacity = queue_capacity(queue.size, batch_pairs, queue.counts_batch)
    if world_size == 1:
        return Placement(capacity, "replicated", is_split=False)
    layout, how = queue.layout, queue.solve
    is_gathered = settings.contrastive.weight > 0 and not takes_ring(
        settings, batch_pairs, embedding_dim, world_size
    )
    if layout == "auto":
        fits = queue_bytes(capacity, embedding_dim, rounds_scores(swamp)) <= REPLICATED_QUEUE_LIMIT
        layout = "replicated" if how == "whole" or (fits and is_gathered) else "sharded"
    if layout == "replicated" and how == "auto":
        iterations = expected_iterations(settings)
        how = cheaper_solve(capacity, swamp.prototypes, embedding_dim, iterations, world_size, on_gpu)
    return Placement(capacity, layout, is_split=layout == "sharded" or how == "split")


def takes_ring(settings: ObjectiveSettings, pairs: int, embedding_dim: int, world_size: int) -> bool:
    """Whether the columns of the contrastive term go around the ranks; the same answer on all of them."""
    contrastive = settings.contrastive
    if contrastive.needs_all_columns:
        return False
    if world_size == 1 or contrastive.columns != "auto":
        return world_size > 1 and contrastive.columns == "ring"
    local, tile = pairs // world_size, min(contrastive.chunk or pairs, pairs)
    needed = 2 * FLOAT * pairs * embedding_dim
    needed += comparison_bytes(contrastive, pairs, local, embedding_dim, tile, False)
    return needed > GATHERED_COLUMNS_LIMIT


def gathered_sides(
    settings: ObjectiveSettings, is_replicated: bool, is_ring: bool = False, after_start: bool = False
) -> tuple[Gathered, Gathered]:
    """What every rank holds of a and of b.

    One score matrix of my b against all a serves both directions of the contrastive term, so b is gathered
    with gradient for other terms alone. The hardest negatives are searched in a without gradient, which only
    their first steps over all negatives need. A replicated queue takes both without, as
    targets from within a modality take b.

    Args:
        is_replicated: whether there is a queue that every rank holds.
        is_ring: whether the columns of the contrastive term go around the ranks, and are not gathered.
        after_start: what is used once `hardest` is past its first steps, and not what may be.
    """
    others, contrastive = settings.other_comparisons, settings.contrastive
    compares = contrastive.weight > 0 and not is_ring
    may_start = contrastive.all_negatives_steps > 0 and not after_start
    pulls = compares and (contrastive.form != "hardest" or may_start)
    rest: Gathered = "rows" if is_replicated else None
    of_a: Gathered = "rows" if compares else rest
    of_b: Gathered = "rows" if compares and compares_within(contrastive) else rest
    return ("gradient" if others or pulls else of_a, "gradient" if others else of_b)


def compares_within(contrastive: ContrastiveSettings) -> bool:
    """Whether targets come from similarities within each modality, for which every rank holds all b."""
    return contrastive.targets.kind in ("within_modality", "balanced_plan")


def subtracts_own(settings: ContrastiveSettings, step: int) -> bool:
    """Whether the contrastive term subtracts the similarities of all pairs in this step."""
    is_warming_up = settings.form == "hardest" and step < settings.all_negatives_steps
    return settings.weight > 0 and (settings.form == "all" or is_warming_up)


def expected_iterations(settings: ObjectiveSettings) -> int:
    """Iterations of a solve: the fixed number, or the one block that a warm start is meant to need."""
    sinkhorn = settings.swamp.sinkhorn
    return sinkhorn.iterations or min(sinkhorn.check_every, sinkhorn.max_iterations)


def cheaper_solve(
    rows: int, prototypes: int, embedding_dim: int, iterations: int, world_size: int, on_gpu: bool
) -> Literal["split", "whole"]:
    """How to solve a replicated queue, by counted cost; both give the same targets.

    Splitting saves (1 - 1/W) of the score product and of one pass over the scores per iteration, and costs
    a small all-reduce per iteration. The rates are orders of magnitude, which is enough: near the crossing
    either will do.
    """
    flops, bandwidth, hop = (3e13, 2e12, 1.5e-5) if on_gpu else (3e10, 1e10, 5e-5)
    product = score_flops(rows, prototypes, embedding_dim) / flops
    passes = 2 * rows * prototypes * FLOAT * iterations / bandwidth
    saved = (product + passes) * (1 - 1 / world_size)
    talk = solve_collectives(iterations, cold=True) * hop * math.ceil(math.log2(world_size))
    return "split" if saved > talk else "whole"
