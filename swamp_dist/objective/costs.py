"""What a step of the objective costs a rank, counted: operations, bytes held and bytes sent. No tensors.

The objective places its work by these formulas, tests hold them against what really happens, and
`swamp show --cost` prints them for any cluster.

Shape letters: B pairs in the global batch, b on this rank, W ranks, D embedding size, K prototypes, C rows of
the full queue, n of them solved on this rank, T iterations. Sizes are in bytes of float32 unless told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from swamp_dist.config import ObjectiveSettings, SwampSettings
from swamp_dist.objective.memory import FLOAT, INT, block_rows, queue_bytes, solve_bytes

REPLICATED_QUEUE_LIMIT = 2**30
"""Bytes up to which layout `auto` holds the whole queue on every rank."""


# -- where rows are --------------------------------------------------------------------------------


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


def place(
    settings: ObjectiveSettings, batch_pairs: int, embedding_dim: int, world_size: int, on_gpu: bool
) -> Placement:
    """Resolve the layout and solve that `objective.swamp.queue` asks for; one rank holds and solves all."""
    queue, swamp = settings.swamp.queue, settings.swamp
    capacity = queue_capacity(queue.size, batch_pairs, queue.counts_batch)
    if world_size == 1:
        return Placement(capacity, "replicated", is_split=False)
    layout, how = queue.layout, queue.solve
    if layout == "auto":
        fits = queue_bytes(capacity, embedding_dim, rounds_scores(swamp)) <= REPLICATED_QUEUE_LIMIT
        filled_for_free = settings.contrastive.weight > 0
        layout = "replicated" if how == "whole" or (fits and filled_for_free) else "sharded"
    if layout == "replicated" and how == "auto":
        iterations = expected_iterations(settings)
        how = cheaper_solve(capacity, swamp.prototypes, embedding_dim, iterations, world_size, on_gpu)
    return Placement(capacity, layout, is_split=layout == "sharded" or how == "split")


def expected_iterations(settings: ObjectiveSettings) -> int:
    """Iterations of a solve: the fixed number, or the one block that a warm start is meant to need."""
    sinkhorn = settings.swamp.sinkhorn
    return sinkhorn.iterations or min(sinkhorn.check_every, sinkhorn.max_iterations)


def cheaper_solve(
    rows: int, prototypes: int, embedding_dim: int, iterations: int, world_size: int, on_gpu: bool
) -> Literal["split", "whole"]:
    """How to solve a replicated queue, by counted cost; both give the same targets.

    Splitting saves (1 - 1/W) of the score product and of one pass over the scores an iteration, and costs
    a small all-reduce an iteration. The rates are orders of magnitude, which is enough: near the crossing
    either will do.
    """
    flops, bandwidth, hop = (3e13, 2e12, 1.5e-5) if on_gpu else (3e10, 1e10, 5e-5)
    product = score_flops(rows, prototypes, embedding_dim) / flops
    passes = 2 * rows * prototypes * FLOAT * iterations / bandwidth
    saved = (product + passes) * (1 - 1 / world_size)
    talk = solve_collectives(iterations, cold=True) * hop * math.ceil(math.log2(world_size))
    return "split" if saved > talk else "whole"


# -- bytes held ------------------------------------------------------------------------------------


def rounds_scores(swamp: SwampSettings) -> bool:
    """Whether the queue holds its rows in bfloat16 too, for the score product."""
    return swamp.sinkhorn.score_precision == "bfloat16"


def batch_bytes(settings: ObjectiveSettings, pairs: int, local_pairs: int, embedding_dim: int) -> int:
    """Bytes of the batch in the objective, about: gathered columns with their gradient, similarities, and
    scores, log-softmax and targets (b, K) of both sides, each with gradient where it has one."""
    columns = 4 * pairs * embedding_dim
    similarities = 8 * local_pairs * pairs if settings.contrastive.weight > 0 else 0
    assignments = 8 * local_pairs * settings.swamp.prototypes if settings.swamp.weight > 0 else 0
    return FLOAT * (columns + similarities + assignments)


# -- operations ------------------------------------------------------------------------------------


def score_flops(rows: int, prototypes: int, embedding_dim: int) -> int:
    """Operations of the scores of `rows` pairs: a product for each modality, 2 n K D each."""
    return 4 * rows * prototypes * embedding_dim


def solve_flops(
    rows: int, prototypes: int, embedding_dim: int, iterations: int, cold: bool, is_streamed: bool
) -> tuple[int, int]:
    """Operations of a solve without repeats: (score products, everything else).

    Scores that are kept are made once; streamed ones for every pass: one an iteration, and one more for
    the maxima of a cold start (none where `stays_in_range`: not `cold` then). An iteration is two matrix-vector products a modality; a kernel takes
    five operations an element.
    """
    passes = iterations + cold
    products = score_flops(rows, prototypes, embedding_dim) * (passes if is_streamed else 1)
    kernels = passes if is_streamed else 1 + cold
    return products, rows * prototypes * (8 * iterations + 10 * kernels)


def contrastive_flops(local_pairs: int, pairs: int, embedding_dim: int) -> int:
    """Two products of my rows with all columns, and two more of each in the backward pass."""
    return 12 * local_pairs * pairs * embedding_dim


def assignment_flops(local_pairs: int, prototypes: int, embedding_dim: int) -> int:
    """Scores of my rows with the prototypes, both modalities, forward and backward."""
    return 12 * local_pairs * prototypes * embedding_dim


# -- bytes sent ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Collective:
    """One call that all ranks make together."""

    kind: Literal["all_gather", "reduce_scatter", "all_reduce"]
    what: str
    payload: int
    """Bytes of the tensor that a rank hands in."""

    def sent(self, world_size: int) -> int:
        """Bytes a rank sends when ranks form a ring, as large messages of NCCL and gloo do."""
        hops = world_size - 1
        per_hop = {
            "all_gather": self.payload,
            "reduce_scatter": self.payload / world_size,
            "all_reduce": 2 * self.payload / world_size,
        }
        return math.ceil(per_hop[self.kind] * hops)


def stays_in_range(swamp: SwampSettings) -> bool:
    """Whether scores are cosines and epsilon so large that no 2^(s / epsilon) leaves float32: then the kernel is
    made once a solve, and a cold start asks for no maxima."""
    return swamp.normalize_prototypes and 1 / (swamp.epsilon * math.log(2)) <= 31.5


def solve_collectives(iterations: int, cold: bool, epsilon: float = 1.0, repeated_blocks: int = 0) -> int:
    """All-reduces of a split solve: one an iteration (`iterations` counts repeats too), and one more, of
    maxima, for the first of a cold start, of a warm start at epsilon below 0.01 and of a repeated block.
    Where `stays_in_range`, a cold start is as a warm one."""
    return iterations + int(cold or epsilon < 0.01) + repeated_blocks


def step_collectives(
    settings: ObjectiveSettings,
    placement: Placement | None,
    pairs: int,
    pairs_per_entry: int,
    embedding_dim: int,
    world_size: int,
    iterations: int,
    cold: bool,
) -> list[Collective]:
    """What a rank hands to the others in one objective call and its backward pass, in order, without repeats.

    float32; the SwAMP term counts, and the weighted mean over all negatives is the ranking loss if it is set.
    """
    if world_size == 1:
        return []
    local, ranking, swamp = pairs // world_size, settings.contrastive, settings.swamp
    side, found = local * embedding_dim * FLOAT, []
    is_replicated = placement is not None and placement.layout == "replicated"
    if ranking.weight > 0 or is_replicated:
        found += [Collective("all_gather", f"embeddings of {name}", side) for name in "ab"]
    if is_replicated:
        found.append(Collective("all_gather", "sample ids", local * INT))
    if ranking.weight > 0 and ranking.negatives == "all" and ranking.in_entry_share and pairs_per_entry > 1:
        found.append(Collective("all_gather", "entries", local * INT))
    if placement is not None:
        asks_maxima = cold and not stays_in_range(swamp)
        calls = solve_collectives(iterations, asks_maxima, swamp.epsilon) if placement.is_split else 0
        found += [Collective("all_reduce", "column masses", 2 * swamp.prototypes * FLOAT)] * calls
        found.append(Collective("all_reduce", "prototype use", swamp.prototypes * INT))
    if ranking.weight > 0:
        found += [Collective("reduce_scatter", f"gradient of {name}", world_size * side) for name in "ba"]
    return found


# -- a step ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepCost:
    """One warm step of the objective on the rank that does most, by part."""

    world_size: int
    local_pairs: int
    placement: Placement | None
    rows: int
    """Queue rows n that this rank solves."""
    blocks: int
    """Blocks that its scores are made in; 1 where they are kept."""
    flops: dict[str, int]
    memory: dict[str, int]
    collectives: Sequence[Collective]

    @property
    def sent(self) -> int:
        """Bytes this rank sends."""
        return sum(collective.sent(self.world_size) for collective in self.collectives)


def step_cost(
    settings: ObjectiveSettings,
    pairs: int,
    pairs_per_entry: int,
    embedding_dim: int,
    world_size: int,
    on_gpu: bool = True,
) -> StepCost:
    """The cost of a step with a full queue; encoders and optimiser are not part of it."""
    local, swamp = pairs // world_size, settings.swamp
    flops = {"contrastive": contrastive_flops(local, pairs, embedding_dim)}
    memory = {"batch": batch_bytes(settings, pairs, local, embedding_dim)}
    if settings.contrastive.weight == 0:
        flops["contrastive"] = 0
    placement, rows, blocks = None, 0, 0
    iterations, cold = expected_iterations(settings), not swamp.sinkhorn.warm_start
    if swamp.weight > 0:
        placement = place(settings, pairs, embedding_dim, world_size, on_gpu)
        rows = placement.solved_rows(pairs, world_size - 1, world_size)
        held = rows if placement.layout == "sharded" else placement.capacity
        limit = int(swamp.sinkhorn.score_memory)
        blocks = math.ceil(rows / block_rows(rows, swamp.prototypes, limit, on_gpu=on_gpu))
        asks_maxima = cold and not stays_in_range(swamp)
        solving = solve_flops(rows, swamp.prototypes, embedding_dim, iterations, asks_maxima, blocks > 1)
        flops |= {"own scores": assignment_flops(local, swamp.prototypes, embedding_dim)}
        flops |= {"solve": sum(solving)}
        memory |= {"queue": queue_bytes(held, embedding_dim, rounds_scores(swamp)) + placement.capacity * INT}
        memory |= {"solve": solve_bytes(rows, swamp.prototypes, limit, on_gpu=on_gpu)}
    sent = step_collectives(
        settings, placement, pairs, pairs_per_entry, embedding_dim, world_size, iterations, cold
    )
    return StepCost(world_size, local, placement, rows, blocks, flops, memory, sent)
