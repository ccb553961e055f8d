"""What one step of the objective costs the rank that does most: the formulas of `costs`, added up by part.

Shape letters: B pairs in the global batch, b on this rank, D embedding size, K prototypes, n queue rows
solved on this rank. Sizes are in bytes of float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from swamp_dist.config import ContrastiveSettings, ObjectiveSettings, SwampSettings
from swamp_dist.objective.costs import (
    Collective,
    assignment_flops,
    batch_bytes,
    comparison_bytes,
    contrastive_flops,
    measured_every,
    norm_bytes,
    norm_flops,
    plan_collectives,
    ring_bytes,
    rounds_scores,
    solve_collectives,
    solve_flops,
    stays_in_range,
    weight_flops,
)
from swamp_dist.objective.memory import DOUBLE, FLOAT, INT, block_rows, items_bytes, queue_bytes, solve_bytes
from swamp_dist.objective.placement import (
    Placement,
    choose_placement,
    expected_iterations,
    gathered_sides,
    subtracts_own,
    takes_ring,
)


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
    """The cost of a step with a full queue; encoders and optimiser are not part of it.

    A term adds what it computes to `flops`, what it holds beyond the batch to `memory`, and what it sends to
    `step_collectives`.
    """
    local, swamp, placement, rows, blocks = pairs // world_size, settings.swamp, None, 0, 0
    if swamp.weight > 0:
        placement = choose_placement(settings, pairs, embedding_dim, world_size, on_gpu)
    is_ring = settings.contrastive.weight > 0 and takes_ring(settings, pairs, embedding_dim, world_size)
    sides = gathered_sides(settings, placement is not None and placement.layout == "replicated", is_ring)
    memory = {"batch": batch_bytes(settings, pairs, local, embedding_dim, sides)}
    flops = {"contrastive": 0}
    flops |= {"triplet": 12 * local * embedding_dim} if settings.triplet.weight > 0 else {}
    if settings.contrastive.weight > 0:
        weighs = weighs_entries(settings, pairs_per_entry) or settings.contrastive.weighs_negatives
        columns = local if is_ring else pairs
        tile = min(settings.contrastive.chunk or columns, columns)
        flops["contrastive"] = contrastive_flops(settings.contrastive, local, pairs, embedding_dim, tile)
        memory["comparison"] = comparison_bytes(
            settings.contrastive, pairs, local, embedding_dim, tile, weighs
        )
        if settings.contrastive.weighs_negatives:
            flops["weights of negatives"] = weight_flops(local, pairs, swamp.prototypes)
            memory["targets of columns"] = pairs * swamp.prototypes * FLOAT
        if is_ring:
            memory["ring"] = ring_bytes(local, embedding_dim)
    if placement is not None:
        rows = placement.solved_rows(pairs, world_size - 1, world_size)
        fitting = block_rows(rows, swamp.prototypes, int(swamp.sinkhorn.score_memory), on_gpu=on_gpu)
        blocks = math.ceil(rows / fitting)
        flops |= _swamp_flops(settings, local, rows, embedding_dim, is_streamed=blocks > 1)
        memory |= _swamp_memory(swamp, placement, rows, embedding_dim, on_gpu)
    every = measured_every(settings)
    if every is not None:
        flops["gradient norms"] = norm_flops(local, embedding_dim) // every
        memory["gradient norms"] = norm_bytes(local, embedding_dim)
    sent = step_collectives(
        settings,
        placement,
        pairs=pairs,
        pairs_per_entry=pairs_per_entry,
        embedding_dim=embedding_dim,
        world_size=world_size,
    )
    return StepCost(world_size, local, placement, rows, blocks, flops, memory, sent)


def weighs_entries(settings: ObjectiveSettings, pairs_per_entry: int) -> bool:
    """Whether pairs of one entry weigh otherwise than others in the contrastive term."""
    contrastive = settings.contrastive
    has_weights = contrastive.form == "all" and contrastive.in_entry_share is not None
    return contrastive.weight > 0 and has_weights and pairs_per_entry > 1


def _comparison_collectives(
    contrastive: ContrastiveSettings, pairs: int, local: int, lap: list[Collective]
) -> list[Collective]:
    """Of comparing my rows with all columns; `lap`: of going around the ranks once, [] where they are
    gathered."""
    found = []
    if contrastive.positives != "partner":
        found.append(Collective("all_gather", "keys of positives", local * INT))
    if contrastive.targets.kind == "within_modality":
        found.append(Collective("all_gather", "normalisers of targets", local * FLOAT))
    if contrastive.targets.kind == "balanced_plan":
        masses = Collective("all_reduce", "masses of the plan", 2 * pairs * FLOAT)
        found += [masses] * plan_collectives(contrastive.targets)
        found.append(Collective("all_gather", "normalisers of targets", local * FLOAT))
    if contrastive.targets.kind == "pseudo_positives":
        found.append(Collective("all_gather", "similarity of each pair", local * FLOAT))
        found.append(Collective("all_reduce", "pseudo-positives of each column", pairs * FLOAT))
    if contrastive.form == "hardest":
        return found + lap
    hardest = [Collective("all_reduce", "hardest of each column (logged steps)", pairs * FLOAT)]
    if contrastive.form == "infonce":
        is_joined = contrastive.multiple_positives == "mil_nce"
        size = (1 + is_joined) * pairs * FLOAT
        names = "maximum of each column", "normaliser of each column"
        found += lap + hardest + [Collective("all_reduce", name, size) for name in names]
        hardest = []
    # A block's gradient follows it from the second step on; the last block has none to move on with it.
    following = [Collective("shift", "gradient around the ranks", shift.payload) for shift in lap]
    moves = [move for pair in zip(lap[1:], following, strict=False) for move in pair]
    return found + lap[:1] + moves + hardest + following[-1:]


def _swamp_flops(
    settings: ObjectiveSettings, local: int, rows: int, embedding_dim: int, *, is_streamed: bool
) -> dict[str, int]:
    swamp = settings.swamp
    asks_maxima = not swamp.sinkhorn.warm_start and not stays_in_range(swamp)
    iterations = expected_iterations(settings)
    solving = solve_flops(rows, swamp.prototypes, embedding_dim, iterations, asks_maxima, is_streamed)
    own = assignment_flops(local, swamp.prototypes, embedding_dim)
    takes_softmax = swamp.sinkhorn.start == "literal" and not swamp.sinkhorn.warm_start
    softmax = 10 * rows * swamp.prototypes * takes_softmax  # as one more kernel
    return {"own scores": own, "solve": sum(solving) + softmax}


def _swamp_memory(
    swamp: SwampSettings, placement: Placement, rows: int, embedding_dim: int, on_gpu: bool
) -> dict[str, int]:
    held = rows if placement.layout == "sharded" else placement.capacity
    queue = queue_bytes(held, embedding_dim, rounds_scores(swamp)) + placement.capacity * INT
    if swamp.queue.unique_items:
        queue += items_bytes(placement.capacity, held)
    limit = int(swamp.sinkhorn.score_memory)
    return {"queue": queue, "solve": solve_bytes(rows, swamp.prototypes, limit, on_gpu=on_gpu)}


def step_collectives(
    settings: ObjectiveSettings,
    placement: Placement | None,
    *,
    pairs: int,
    pairs_per_entry: int,
    embedding_dim: int,
    world_size: int,
) -> list[Collective]:
    """What a rank hands to the others in one objective call and its backward pass, in order, without repeats.

    float32; the SwAMP term counts, the weighted mean over all negatives is the contrastive loss if it is
    set, and `hardest` is past its first steps.
    """
    if world_size == 1:
        return []
    local, contrastive, swamp = pairs // world_size, settings.contrastive, settings.swamp
    side, found = local * embedding_dim * FLOAT, []
    # Columns of the batch: for the terms that compare them, and for a queue that every rank holds.
    is_replicated = placement is not None and placement.layout == "replicated"
    is_ring = contrastive.weight > 0 and takes_ring(settings, pairs, embedding_dim, world_size)
    held = gathered_sides(settings, is_replicated, is_ring, after_start=True)
    sides = dict(zip("ab", held, strict=True))
    found += [Collective("all_gather", f"embeddings of {name}", side) for name in sides if sides[name]]
    subtracts = subtracts_own(contrastive, contrastive.all_negatives_steps)
    if subtracts:
        found.append(Collective("all_gather", "similarity of each pair", local * FLOAT))
    if is_replicated or (placement is not None and swamp.queue.unique_items):
        found.append(Collective("all_gather", "sample ids", local * INT))
    # In-entry weights.
    if weighs_entries(settings, pairs_per_entry):
        found.append(Collective("all_gather", "entries", local * INT))
    lap = [Collective("shift", "columns around the ranks", side)] * (world_size - 1) if is_ring else []
    compared = _comparison_collectives(contrastive, pairs, local, lap) if contrastive.weight > 0 else []
    searches = contrastive.weight > 0 and contrastive.form == "hardest"
    if searches:
        compared += _search_collectives(pairs, world_size, side)
    solved = [] if placement is None else _solve_collectives(swamp, placement, expected_iterations(settings))
    # The solve comes first where its targets weigh negatives.
    if contrastive.weighs_negatives:
        solved.append(Collective("all_gather", "targets of a", local * swamp.prototypes * FLOAT))
        compared, solved = solved, compared
    found += compared + solved
    # Backward: the gradients of the columns.
    if subtracts:
        found.append(Collective("reduce_scatter", "gradient of each pair's similarity", pairs * FLOAT))
    if searches:
        found.append(Collective("all_to_all", "gradient of the hardest", 2 * side))
    with_gradient = [name for name in "ba" if sides[name] == "gradient"]
    found += [
        Collective("reduce_scatter", f"gradient of {name}", world_size * side) for name in with_gradient
    ]
    # After it: how strongly the terms pull.
    every = measured_every(settings)
    if every is not None:
        found.append(Collective("all_reduce", "gradient norms", 2 * DOUBLE, every))
    return found


def _solve_collectives(swamp: SwampSettings, placement: Placement, iterations: int) -> list[Collective]:
    """Of the solve, and of how its targets use the prototypes."""
    asks_maxima = not swamp.sinkhorn.warm_start and not stays_in_range(swamp)
    calls = solve_collectives(iterations, asks_maxima, swamp.epsilon) if placement.is_split else 0
    masses = Collective("all_reduce", "column masses", 2 * swamp.prototypes * FLOAT)
    return [masses] * calls + [
        Collective("all_reduce", "prototype use (logged steps)", swamp.prototypes * INT)
    ]


def _search_collectives(pairs: int, world_size: int, side: int) -> list[Collective]:
    """Of form `hardest`, forward, with `side` the bytes of a rank's rows of one modality."""
    return [
        Collective("all_reduce", "hardest of each column", pairs * FLOAT),
        Collective("all_reduce", "place of the hardest", pairs * INT),
        Collective("all_to_all", "numbers of rows asked for", world_size * INT),
        Collective("all_to_all", "places of rows asked for", 2 * pairs // world_size * INT),
        Collective("all_to_all", "the hardest", 2 * side),
    ]
