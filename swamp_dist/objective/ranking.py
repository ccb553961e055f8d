"""The contrastive term as the settings ask for it: which negatives, which weights, how many columns at a time.

The formulas are in `contrastive`, and block by block in `chunked`. Shape letters: b pairs on this rank,
B in the global batch, D embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swamp_dist.config import ContrastiveSettings
from swamp_dist.distributed import World, gather
from swamp_dist.objective import chunked, contrastive
from swamp_dist.objective.chunked import BlockWeights
from swamp_dist.records import BatchPlan, PairEmbeddings


def ranking_term(
    settings: ContrastiveSettings,
    plan: BatchPlan,
    mine: PairEmbeddings,
    all_a: Tensor,
    all_b: Tensor,
    entries: Tensor,
    step: int,
    world: World,
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """L_c of my pairs against all columns (B, D), and its figures; (None, {}) where its weight is 0.

    Args:
        settings: the term's settings.
        plan: the global batch.
        mine: rows a, b (b, D) with gradient.
        all_a: columns (B, D) of modality A, with gradient.
        all_b: columns (B, D) of modality B, with gradient.
        entries: (b,) position of each pair's entry in the global batch.
        step: steps done before this one.
        world: all ranks; talks only where in-entry weights are asked for.
    """
    if settings.weight == 0:
        return None, {}
    takes_hardest = settings.negatives == "hardest" and step >= settings.all_negatives_steps
    weights = None if takes_hardest else _weights(settings, plan, entries, mine.a.dtype, world)
    compare = _at_once if settings.chunk is None else _in_blocks
    loss, positive, hardest = compare(
        settings, mine, all_a, all_b, world.rank * len(mine.a), takes_hardest, weights
    )
    if settings.negatives == "hardest" and not takes_hardest and settings.reduction == "sum":
        loss = plan.pairs * loss  # the start against collapse keeps the balance with the SwAMP term
    return loss, {"similarity/positive": positive, "similarity/hardest_negative": hardest}


def _weights(
    settings: ContrastiveSettings, plan: BatchPlan, entries: Tensor, dtype: torch.dtype, world: World
) -> BlockWeights | None:
    """In-entry weights of any slice of the columns; None where all pairs weigh the same."""
    share = settings.in_entry_share
    if settings.negatives == "hardest" or plan.pairs_per_entry == 1 or share is None:
        return None
    all_entries = gather(entries, world)
    return lambda columns: contrastive.entry_weights(
        entries, all_entries[columns], plan.entries, share, dtype
    )


def _at_once(
    settings: ContrastiveSettings,
    mine: PairEmbeddings,
    all_a: Tensor,
    all_b: Tensor,
    first_row: int,
    takes_hardest: bool,
    weights: BlockWeights | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, mean similarity of my pairs, mean of the hardest negatives; each 0-d, the first with gradient."""
    found = contrastive.similarities(mine.a, mine.b, all_a, all_b, first_row)
    if takes_hardest:
        loss = contrastive.hardest_negative(found, settings.margin, settings.reduction)
    else:
        every = None if weights is None else weights(slice(None))
        loss = contrastive.mean_over_negatives(found, settings.margin, every)
    with torch.no_grad():
        hardest = torch.cat(contrastive.hardest_negatives(found)).mean()
        return loss, found.positives[0].mean(), hardest


def _in_blocks(
    settings: ContrastiveSettings,
    mine: PairEmbeddings,
    all_a: Tensor,
    all_b: Tensor,
    first_row: int,
    takes_hardest: bool,
    weights: BlockWeights | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `_at_once`, `chunk` columns at a time."""
    assert settings.chunk is not None
    sides = (mine.a, mine.b, all_a, all_b, first_row, settings.margin, settings.chunk)
    if takes_hardest:
        loss, hardest = chunked.hardest_negative(*sides, settings.reduction)
    else:
        loss, hardest = chunked.mean_over_negatives(*sides, weights)
    return loss, (mine.a * mine.b).detach().sum(1).mean(), hardest.mean()
