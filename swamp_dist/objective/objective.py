"""The objective of a step: gather the batch, ask every term for its loss, add them up (paper, Algorithm 1).

The terms are in `terms`, their formulas in the modules beside this one. Shape letters: b pairs on this rank,
B in the global batch, D embedding size, K prototypes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, final

import torch
from torch import Tensor

from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World, start_gather
from swamp_dist.objective.checks import check_negatives
from swamp_dist.objective.placement import gathered_sides, subtracts_own, takes_ring
from swamp_dist.objective.products import Precision, full_precision, own_scores
from swamp_dist.objective.queue import Queue
from swamp_dist.objective.term import Term, TermInputs, weighted_total
from swamp_dist.objective.terms import contrastive, domain, semantic, triplet
from swamp_dist.objective.terms.swamp import SwampTerm, build_swamp_term
from swamp_dist.records import BatchPlan, LossTerms, PairEmbeddings
from swamp_dist.row_exchange import GradientGathering, Pending, start_gather_rows


@final
class Objective:
    """L = L_c + lambda * L_s (eq. 6), with the queue and the potentials that live from step to step.

    Made by `build_objective`. Every rank of a world calls it once per step, with its rows of the same batch.
    """

    def __init__(
        self, settings: ObjectiveSettings, plan: BatchPlan, swamp: SwampTerm | None, is_ring: bool = False
    ) -> None:
        self.settings = settings
        self.plan = plan
        self.swamp = swamp
        """None where the SwAMP weight is 0."""
        self.class_vectors: Tensor | None = None
        """(classes, E) vectors of the classes' names, on the device; a stage of the semantic term sets it."""
        is_replicated = swamp is not None and swamp.queue.is_replicated
        self._is_ring = is_ring
        self._sides = gathered_sides(settings, is_replicated, is_ring)

    @property
    def queue(self) -> Queue | None:
        """The queue of the SwAMP term, where there is one."""
        return None if self.swamp is None else self.swamp.queue

    @property
    def last_usage(self) -> Tensor | None:
        """`prototype_usage` of the last step that was logged; None before the SwAMP term counts."""
        return None if self.swamp is None else self.swamp.last_usage

    @property
    def passes(self) -> str | None:
        """What passes over the scores of a solve (`solve.passes`); None without the SwAMP term."""
        return None if self.swamp is None else self.swamp.passes

    @property
    def effective_ratio(self) -> Tensor | None:
        """lambda |g_s| / |g_c| as measured last (`gradient_ratio`): 0-d float64, the same bits on all ranks;
        None before."""
        pulls = None if self.swamp is None else self.swamp.ratio.pulls
        return None if pulls is None else pulls.effective

    def __call__(
        self,
        embeddings: PairEmbeddings,
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
            embeddings: rows a, b (b, D) and prototypes (K, D), with gradient.
            ids: (b,) ids of the items, kept in the queue.
            entries: (b,) position of each pair's entry in the global batch.
            step: steps done before this one.
            world: all ranks, equal b on each.
            pending_a: what `start_columns` gave for the rows of a, if it was called before.
            labels: (b,) class of each pair; needed where the classes say which pairs are positives.
            is_logged: whether figures are wanted that the log alone shows; alike on all ranks.

        Raises:
            ValueError: the objective was built for another rank or number of ranks.
        """
        if self.swamp is not None:
            self.swamp.check_world(world)
        with full_precision(embeddings.a.device.type):
            inputs = self._inputs(embeddings, ids, entries, step, world, pending_a, labels, is_logged)
            # SwAMP goes first where its targets weigh the negatives of the contrastive term.
            first = self._ask_swamp(inputs) if self.settings.contrastive.weighs_negatives else None
            inputs = inputs if first is None else replace(inputs, targets=first.targets)
            # A line per term; its order is that of the sum and of the log.
            terms = {
                "contrastive": contrastive.term(self.settings.contrastive, inputs),
                "swamp": self._ask_swamp(inputs) if first is None else first,
                "triplet": triplet.term(self.settings.triplet, inputs),
                "semantic": semantic.term(self.settings.semantic, inputs),
                "domain": domain.term(self.settings.domain, inputs),
            }
            total = weighted_total(terms, inputs.mine)
        losses = {name: term.loss for name, term in terms.items() if term.loss is not None}
        figures = {tag: value for term in terms.values() for tag, value in term.figures.items()}
        return LossTerms(total, losses, figures)

    def _inputs(
        self,
        embeddings: PairEmbeddings,
        ids: Tensor,
        entries: Tensor,
        step: int,
        world: World,
        pending_a: Pending | None,
        labels: Tensor | None,
        is_logged: bool,
    ) -> TermInputs:
        """Gather what the terms compare. All gathers are on their way while my scores are computed."""
        mine = _at_least_float32(embeddings)
        # 1. Send off my rows, the similarities of my pairs, and my ids.
        pending_a = pending_a or self.start_columns(mine.a, world)
        pending_b = self.start_columns(mine.b, world, side="b")
        pending_own, all_ids = self._start_own(mine, step, world), self._start_ids(ids, world)
        # 2. Score my rows meanwhile.
        scores = _own_scores(self._watched(mine, pending_a, step), self.settings.precision)
        # 3. Wait for the others'. One rank has them all.
        columns = (mine.a, mine.b) if world.size == 1 else (_wait(pending_a), _wait(pending_b))
        own = _wait(pending_own)
        return TermInputs(
            self.plan, mine, scores, columns, all_ids, entries, step, world, own, labels,
            self.class_vectors, self._is_ring, precision=self.settings.precision, is_logged=is_logged,
        )  # fmt: skip

    def _ask_swamp(self, inputs: TermInputs) -> Term:
        return Term() if self.swamp is None else self.swamp(inputs)

    def _watched(self, mine: PairEmbeddings, pending_a: Pending | None, step: int) -> PairEmbeddings:
        """My rows for the scores of SwAMP, whose gradient is told apart where other terms pull beside it."""
        if self.swamp is None or not self.settings.compares_ranks:
            return mine
        source_a = pending_a.source if isinstance(pending_a, GradientGathering) else mine.a
        return self.swamp.ratio.watch(mine, source_a, step)

    def measure(self, terms: LossTerms, world: World) -> LossTerms:
        """`terms` of the step, with the ratio of gradients as it was measured last. All ranks call it after
        the backward pass: an all-reduce of two numbers on steps that measure.

        Raises:
            ValueError: there was no backward pass.
        """
        if self.swamp is not None:
            self.swamp.ratio.measure(world)
        if self.effective_ratio is None:
            return terms
        figures = {**terms.diagnostics, "swamp/effective_ratio": self.effective_ratio}
        return replace(terms, diagnostics=figures)

    def start_columns(self, rows: Tensor, world: World, side: Literal["a", "b"] = "a") -> Pending | None:
        """Start to gather the rows (b, D) of one modality from all ranks, with gradient where a term compares
        them; None where neither a term nor a replicated queue asks for them. All ranks call it."""
        what = self._sides["ab".index(side)]
        if what is None or world.size == 1:
            return None
        return start_gather_rows(rows, world) if what == "gradient" else start_gather(rows, world)

    def _start_own(self, mine: PairEmbeddings, step: int, world: World) -> Pending | None:
        """Start to gather the similarity (B,) of each pair, where a term subtracts those of others."""
        if not subtracts_own(self.settings.contrastive, step):
            return None
        return start_gather_rows((mine.a * mine.b).sum(dim=1), world)

    def _start_ids(self, ids: Tensor, world: World) -> Callable[[], Tensor]:
        """Start to gather the ids of items (B,) where the queue `takes_all_ids`; the answer waits for them.
        Mine (b,) else."""
        if self.queue is None or not self.queue.takes_all_ids:
            return lambda: ids
        return start_gather(ids, world).wait

    def state(self, world: World) -> dict[str, Tensor]:
        """What a checkpoint must keep, whole on rank 0; {} without the SwAMP term. All ranks call it."""
        return {} if self.swamp is None else self.swamp.state(world)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`, on any world size and layout. Call it on all ranks; each keeps what is its own.

        Raises:
            ValueError: it belongs to another embedding size or number of prototypes.
        """
        if self.swamp is not None:
            self.swamp.load_state(state)


def build_objective(
    settings: ObjectiveSettings,
    plan: BatchPlan,
    embedding_dim: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    rank: int = 0,
) -> Objective:
    """The objective of a stage, with an empty queue; without queue or solve where the SwAMP weight is 0.

    `rank` says whose rows a sharded queue will hold, and is checked when it is used.

    Raises:
        UserError: settings under which a term could never count.
    """
    if settings.contrastive.weight > 0:
        check_negatives(settings.contrastive, plan)
    is_ring = takes_ring(settings, plan.pairs, embedding_dim, plan.world_size)
    if settings.swamp.weight == 0:
        return Objective(settings, plan, None, is_ring)
    swamp = build_swamp_term(settings, plan, embedding_dim, device, dtype, rank)
    return Objective(settings, plan, swamp, is_ring)


def _wait(pending: Pending | None) -> Tensor | None:
    return None if pending is None else pending.wait()


def _own_scores(mine: PairEmbeddings, precision: Precision) -> tuple[Tensor, Tensor] | None:
    """Scores (b, K) of my a and b with the prototypes, with gradient; None where the model has none."""
    if mine.prototypes is None:
        return None
    return (
        own_scores(mine.a, mine.prototypes, precision),
        own_scores(mine.b, mine.prototypes, precision),
    )


def _at_least_float32(embeddings: PairEmbeddings) -> PairEmbeddings:
    if embeddings.a.dtype == torch.float64:
        return embeddings
    return PairEmbeddings(*(None if x is None else x.float() for x in embeddings))  # type: ignore[arg-type]
