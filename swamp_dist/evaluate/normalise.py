"""Scores s(i, j) - h(j): gallery items that stand near every query are put back by a bank of other queries.

With s(b, j) the score of bank query b and gallery item j, N bank queries and m items:
`qb_norm` (Bogolin et al. 2022, arXiv 2112.12777, the dynamic inverted softmax): h(j) = log sum_b exp(beta
s(b, j)) / beta, for a query whose nearest item is among the `nearest` items of some bank query; the scores of
any other query stay as they are. Of equal scores all count as nearest; a bank query that
is not a number is near no item.
`sinkhorn`: h(j) = -epsilon log v_j, with v the column factors of the plan between bank and gallery in which
every bank query gives 1 / N and every item gets 1 / m (eq. 5 of SwAMP's paper with gallery items for
prototypes; normalisation by such a plan as in Pan et al. 2025, arXiv 2507.00364, which has a bank of gallery
items besides). Its first column step is the h of `qb_norm` with epsilon = 1 / beta.

Scores are those of `ranking`, rounded to float32; h is found in float64 and rounded to float32, and the
difference of the two is exact in float64. So ranks are integers that no world size changes.

Shape letters: t queries of a tile, N bank queries, m gallery items, D embedding size.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from swamp_dist.config import NormaliseSettings
from swamp_dist.distributed import World, sum_over_ranks
from swamp_dist.evaluate.scores import float64_scores
from swamp_dist.objective.memory import DOUBLE, block_rows
from swamp_dist.objective.solve.sinkhorn import StreamedScores, solve

logger = logging.getLogger(__name__)
BANK_TILE = 256
"""Bank queries that are scored together, whatever the world size."""
_SOLVE_MEMORY = 2**30
"""Bytes of scores and kernel of a plan; above it scores are made anew for every iteration."""
_TOLERANCE, _MOST_ITERATIONS = 1e-6, 2000
"""Marginal error of a plan: amounts are then off by epsilon * 1e-6, less than their rounding."""
_FAR = 1e-3
"""Marginal error of a plan that is told of."""


@dataclass(frozen=True)
class Shift:
    """What a gallery's scores are lowered by."""

    amounts: Tensor
    """(m,) float32 h(j)."""
    near: Tensor | None = None
    """(m,) bool: the items that a query has to be nearest to; None where all queries are shifted."""

    def scores(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """s(i, j) - h(j) of queries (t, D) and gallery (m, D): (t, m) float64; NaN becomes -inf."""
        plain = float64_scores(queries, gallery).double()
        shifted = (plain - self.amounts.double()).nan_to_num_(
            nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf
        )
        if self.near is None:
            return shifted
        is_nearest = plain == plain.amax(dim=1, keepdim=True)
        is_shifted = (is_nearest & self.near).any(dim=1, keepdim=True)
        return torch.where(is_shifted, shifted, plain)


def find_shifts(
    settings: NormaliseSettings | None, banks: Sequence[Tensor], galleries: Sequence[Tensor], world: World
) -> list[Shift | None]:
    """The shift of each gallery (m, D) by its bank of queries (N, D); None where scores stay. All ranks call
    it.

    Raises:
        ValueError: scores are to be normalised and there are no banks, or the reverse.
    """
    if (settings is None) == bool(banks):
        raise ValueError("scores are normalised where there are banks: `readers.open_bank` opens them")
    if settings is None:
        return [None for _ in galleries]
    return [find_shift(settings, *both, world) for both in zip(banks, galleries, strict=True)]


def find_shift(settings: NormaliseSettings, bank: Tensor, gallery: Tensor, world: World) -> Shift:
    """The shift of a gallery (m, D) by bank queries (N, D), unit-length float32 rows that all ranks hold; the
    same bits on all ranks of any world size. All ranks call it."""
    if settings.method == "sinkhorn":
        return Shift(_plan_amounts(settings, bank, gallery).float())
    return _inverted_softmax(settings, bank, gallery, world)


def _inverted_softmax(settings: NormaliseSettings, bank: Tensor, gallery: Tensor, world: World) -> Shift:
    """A tile of bank queries is one rank's; sums are put together in the order of tiles on all of them."""
    tiles = torch.split(bank, BANK_TILE)
    sums = torch.zeros(len(tiles), len(gallery), dtype=torch.float64, device=bank.device)
    near = torch.zeros(len(gallery), dtype=torch.float64, device=bank.device)
    count = min(settings.nearest, len(gallery))
    for number in range(world.rank, len(tiles), world.size):
        scores = float64_scores(tiles[number], gallery)
        sums[number] = torch.logsumexp(settings.beta * scores.double(), dim=0)
        least = scores.topk(count, dim=1).values[:, -1:]
        near += ((scores >= least) & scores.isfinite()).any(dim=0)
    sums, near = sum_over_ranks(sums, world), sum_over_ranks(near, world)
    return Shift((torch.logsumexp(sums, dim=0) / settings.beta).float(), near > 0)


def _plan_amounts(settings: NormaliseSettings, bank: Tensor, gallery: Tensor) -> Tensor:
    """-epsilon log v (m,) float64. Every rank solves all of it: sums over ranks would depend on their
    number."""
    rows = block_rows(len(bank), len(gallery), _SOLVE_MEMORY, DOUBLE)
    memory = torch.empty(1, rows, len(gallery), dtype=torch.float64, device=bank.device)
    scores = StreamedScores([bank.double()], gallery.double(), memory)
    found = solve(
        next(scores.blocks()) if rows == len(bank) else scores,
        len(bank),
        settings.epsilon,
        tolerance=_TOLERANCE,
        max_iterations=_MOST_ITERATIONS,
        momentum=True,
    )
    if float(found.marginal_error) > _FAR:
        logger.warning(
            "evaluate.normalise = sinkhorn: after %d iterations items get shares of the bank that differ "
            "from equal ones by %.2g on average; raise epsilon above %g",
            found.iterations,
            float(found.marginal_error),
            settings.epsilon,
        )
    return -settings.epsilon * found.log_v[0]
