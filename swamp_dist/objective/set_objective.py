"""The objective of a model that scores pairs of sets and embeds nothing: the contrastive term alone.

Shape letters: b pairs on this rank, B in the global batch, n and m elements of a set, d length of an element.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World, gather
from swamp_dist.objective.contrastive.positives import find_positives
from swamp_dist.objective.contrastive.score_hinge import score_hinge
from swamp_dist.objective.products import full_precision
from swamp_dist.records import BatchPlan, LossTerms, PairScores, PairSets, Sets
from swamp_dist.row_exchange import Pending, gather_rows, pad_alike


@final
class SetObjective:
    """L = L_c over the scores of all pairs of the batch. Rank r scores its a with the b of all ranks.

    Called as `Objective` is. It keeps nothing from step to step.
    """

    effective_ratio: None = None
    passes: None = None
    last_usage: None = None

    def __init__(self, settings: ObjectiveSettings, plan: BatchPlan, score: PairScores) -> None:
        self.settings = settings
        self.plan = plan
        self._score = score

    def __call__(
        self,
        sets: PairSets,
        ids: Tensor,
        entries: Tensor,
        step: int,
        world: World,
        pending_a: Pending | None = None,
        labels: Tensor | None = None,
        is_logged: bool = True,
    ) -> LossTerms:
        """Loss of this rank's pairs; its mean over ranks is the loss of the global batch.

        Args:
            sets: of my pairs, with gradient.
            ids: not used, as `pending_a`.
            entries: (b,) position of each pair's entry in the global batch.
            step: steps done before this one.
            world: all ranks, equal b on each.
            pending_a: None.
            labels: (b,) class of each pair; needed where the classes say which pairs are positives.
            is_logged: not asked: its figures are found on the way.
        """
        settings, count = self.settings.contrastive, len(sets.a)
        matches = self._matches(entries, labels, world)
        with full_precision(sets.a.device.type):
            # 1. My a with the b of all ranks, then the scores of all ranks.
            all_b = gather_sets(Sets(sets.b, sets.b_mask), world)
            scores = gather_rows(self._score(Sets(sets.a, sets.a_mask), all_b).contiguous(), world)
            # 2. The loss of my pairs, both directions.
            first, hardest = world.rank * count, settings.takes_hardest(step)
            found = score_hinge(scores, first, count, settings.margin, hardest, matches)
            # 3. A sum is named; never a local one.
            loss = self.plan.pairs * found.loss if settings.reduction == "sum" else found.loss
        figures = {
            "similarity/positive": scores.detach().diagonal()[first : first + count].mean(),
            "similarity/negative": found.negative,
        }
        if found.hardest is not None:
            figures["similarity/hardest_negative"] = found.hardest
        return LossTerms(settings.weight * loss, {"contrastive": loss}, figures)

    def _matches(self, entries: Tensor, labels: Tensor | None, world: World) -> Tensor | None:
        """(B, B) True where two pairs are positives of each other; None where a partner is the only one."""
        positives = self.settings.contrastive.positives
        if positives == "partner":
            return None
        keys = entries if positives == "entry" else labels
        if keys is None:
            raise ValueError("positives = class: the batch has no labels")
        everyone = find_positives(keys, world)
        whole = slice(0, len(everyone.keys))
        return everyone.matches(whole, whole)

    def measure(self, terms: LossTerms, world: World) -> LossTerms:
        """`terms` as they are: there is no second term to weigh."""
        return terms

    def start_columns(self, rows: Tensor, world: World, side: Literal["a", "b"] = "a") -> None:
        """Nothing: sets are gathered when both modalities are there."""

    def state(self, world: World) -> dict[str, Tensor]:
        """Nothing to keep."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to load."""


def gather_sets(mine: Sets, world: World) -> Sets:
    """The sets of all ranks in rank order, values with gradient: (b, n, d) -> (B, largest n, d)."""
    padded = pad_alike([mine], world)
    mask = gather(padded.mask.to(torch.uint8), world).bool()
    return Sets(gather_rows(padded.values, world), mask)
