"""What a step of the objective costs a rank, counted: operations, bytes held and bytes sent. No tensors.

`placement` decides by these formulas, tests hold them against what really happens, and `step_cost` adds
them up for `swamp show --cost`.

Shape letters: B pairs in the global batch, b on this rank, W ranks, D embedding size, K prototypes, C rows of
the full queue, n of them solved on this rank, T iterations. Sizes are in bytes of float32 unless told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from swamp_dist.config import ContrastiveSettings, ObjectiveSettings, PairTargetSettings, SwampSettings
from swamp_dist.objective.memory import FLOAT

Gathered = Literal["gradient", "rows"] | None
"""What a rank holds of one modality of the batch: all rows with gradient, all without, or its own only."""

# -- bytes held ------------------------------------------------------------------------------------


def rounds_scores(swamp: SwampSettings) -> bool:
    """Whether the queue holds its rows in bfloat16 too, for the score product."""
    return swamp.sinkhorn.score_precision == "bfloat16"


def batch_bytes(
    settings: ObjectiveSettings,
    pairs: int,
    local_pairs: int,
    embedding_dim: int,
    sides: Sequence[Gathered],
) -> int:
    """Bytes of the batch in the objective, about: gathered columns with their gradient, and scores,
    log-softmax and targets (b, K) of both modalities, each with gradient where it has one.

    Args:
        sides: what is gathered of a and of b.
    """
    columns = sum({"gradient": 2, "rows": 1, None: 0}[side] for side in sides) * pairs * embedding_dim
    assignments = 8 * local_pairs * settings.swamp.prototypes if settings.swamp.weight > 0 else 0
    return FLOAT * (columns + assignments)


def comparison_bytes(
    contrastive: ContrastiveSettings,
    pairs: int,
    local_pairs: int,
    embedding_dim: int,
    tile: int,
    is_weighted: bool,
) -> int:
    """Bytes of comparing my rows with all columns: a tile of similarities, what a form makes of one, and the
    gradient of my rows. A GPU judges a tile as a whole; a CPU less at a time. The hardest negatives need a
    tile first and rows from other ranks after it.

    Args:
        tile: columns of a tile.
        is_weighted: whether pairs weigh differently.
    """
    matches = int(contrastive.positives != "partner")  # a byte for each
    if contrastive.form == "hardest":
        return local_pairs * max(
            (FLOAT + matches) * tile, FLOAT * (8 if local_pairs == pairs else 12) * embedding_dim
        )
    tiles = {"all": 2 + 2 * is_weighted, "infonce": 4 + is_weighted, "sigmoid": 3}[contrastive.form]
    tiles += contrastive.multiple_positives == "mil_nce"
    tiles += (
        4 * contrastive.targets.is_soft
    )  # of both directions, and once more of all columns or as it is made
    joined = 2 * (pairs + 2 * local_pairs) * (contrastive.targets.kind == "balanced_plan")  # a beside b
    held = FLOAT * embedding_dim * (local_pairs + joined)
    return local_pairs * (FLOAT * tiles + matches) * tile + held


# -- operations ------------------------------------------------------------------------------------


def score_flops(rows: int, prototypes: int, embedding_dim: int) -> int:
    """Operations of the scores of `rows` pairs: a product for each modality, 2 n K D each."""
    return 4 * rows * prototypes * embedding_dim


def solve_flops(
    rows: int, prototypes: int, embedding_dim: int, iterations: int, cold: bool, is_streamed: bool
) -> tuple[int, int]:
    """Operations of a solve without repeats: (score products, everything else).

    Scores that are kept are made once; streamed ones for every pass: one per iteration, and one more for
    the maxima of a cold start (none where `stays_in_range`: not `cold` then). An iteration is two
    matrix-vector products per modality; a kernel takes five operations per element.
    """
    passes = iterations + cold
    products = score_flops(rows, prototypes, embedding_dim) * (passes if is_streamed else 1)
    kernels = passes if is_streamed else 1 + cold
    return products, rows * prototypes * (8 * iterations + 10 * kernels)


def ring_bytes(local_pairs: int, embedding_dim: int) -> int:
    """Bytes of columns that go around the ranks: a block, the next one, and two blocks of gradient on their
    way beside mine."""
    return 5 * local_pairs * embedding_dim * FLOAT


def contrastive_flops(
    contrastive: ContrastiveSettings, local_pairs: int, pairs: int, embedding_dim: int, tile: int
) -> int:
    """One product of my rows with all columns and two for its gradient, of which the hardest negatives need
    none: 4b similarities have one there. The first is made twice where a form has a normaliser and tiles are
    several. Several positives are left out of the mean negative of the hardest by one more.

    Args:
        tile: columns of a tile.
    """
    products = 3
    if contrastive.form == "hardest":
        products = 1 + (contrastive.positives != "partner")
    if contrastive.form == "infonce" and tile < pairs:
        products += 1
    products += target_products(contrastive, is_whole=tile >= pairs)
    return 2 * products * local_pairs * pairs * embedding_dim


def target_products(contrastive: ContrastiveSettings, is_whole: bool) -> int:
    """Products of my rows with all columns that soft targets take: for their normalisers, and for themselves
    once, or for tiles (not `is_whole`) when scanned and when pulled. A plan compares rows of twice the length
    in both directions, in tiles once per pass of the solve and for the normalisers."""
    targets = contrastive.targets
    if targets.kind == "balanced_plan":
        return 4 if is_whole else 4 * (plan_collectives(targets) + 1) + 4
    each = {"partner": 0, "within_modality": 2, "pseudo_positives": 1}[targets.kind]
    return each * (2 if is_whole else 3)


def plan_collectives(targets: PairTargetSettings) -> int:
    """All-reduces of the solve of a `balanced_plan` without repeats, as many as its passes over S."""
    return solve_collectives(targets.iterations, cold=False, epsilon=targets.epsilon)


def weight_flops(local_pairs: int, pairs: int, prototypes: int) -> int:
    """Agreement of the targets of my rows and all columns, when scanned and when pulled."""
    return 4 * local_pairs * pairs * prototypes


def assignment_flops(local_pairs: int, prototypes: int, embedding_dim: int) -> int:
    """Scores of my rows with the prototypes, both modalities, forward and backward."""
    return 12 * local_pairs * prototypes * embedding_dim


def norm_flops(local_pairs: int, embedding_dim: int) -> int:
    """A measurement of the ratio of gradients: a difference and two norms of my rows, both modalities."""
    return 10 * local_pairs * embedding_dim


def norm_bytes(local_pairs: int, embedding_dim: int) -> int:
    """What a measurement holds: SwAMP's gradient of both modalities and the difference of one."""
    return 3 * local_pairs * embedding_dim * FLOAT


def measured_every(settings: ObjectiveSettings) -> int | None:
    """Steps between two measurements of the ratio of gradients; None where there is no ratio."""
    has_two = settings.swamp.weight > 0 and settings.compares_ranks
    return settings.swamp.measure_every if has_two else None


# -- bytes sent ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Collective:
    """One call that all ranks make together."""

    kind: Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "shift"]
    """`shift`: to the next rank alone, as an uneven all-to-all."""
    what: str
    payload: int
    """Bytes of the tensor that a rank hands in; of rows that others choose, the mean over ranks."""
    every: int = 1
    """Steps between two of them."""

    def sent(self, world_size: int) -> int:
        """Bytes a rank sends per step when ranks form a ring, as large messages of NCCL and gloo do."""
        hops = world_size - 1
        per_hop = {
            "all_gather": self.payload,
            "reduce_scatter": self.payload / world_size,
            "all_reduce": 2 * self.payload / world_size,
            "all_to_all": self.payload / world_size,
            "shift": self.payload / max(hops, 1),
        }
        return math.ceil(per_hop[self.kind] * hops / self.every)


def stays_in_range(swamp: SwampSettings) -> bool:
    """Whether scores are cosines and epsilon so large that no 2^(s / epsilon) leaves float32: then the kernel
    is made once per solve, and a cold start asks for no maxima."""
    return swamp.normalize_prototypes and 1 / (swamp.epsilon * math.log(2)) <= 31.5


def solve_collectives(iterations: int, cold: bool, epsilon: float = 1.0, repeated_blocks: int = 0) -> int:
    """All-reduces of a split solve: one per iteration (`iterations` counts repeats too), and one more, of
    maxima, for the first of a cold start, of a warm start at epsilon below 0.01 and of a repeated block.
    Where `stays_in_range`, a cold start is as a warm one."""
    return iterations + int(cold or epsilon < 0.01) + repeated_blocks
