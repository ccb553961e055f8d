"""The objective of a step: contrastive term, queue, solve and swapped targets in order (paper, Algorithm 1).

The formulas are in the modules beside this one. Shape letters: b pairs on this rank, B in the global batch,
D embedding size, K prototypes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import Pending, World, start_gather, start_gather_rows
from swamp_dist.objective.checks import check_negatives, check_swamp
from swamp_dist.objective.costs import place
from swamp_dist.objective.queue import Deal, Queue, queue_figures
from swamp_dist.objective.ranking import ranking_term
from swamp_dist.objective.sinkhorn import SinkhornSolution, StreamedScores, solve
from swamp_dist.objective.solve_memory import SolveMemory
from swamp_dist.objective.targets import (
    full_precision,
    prototype_usage,
    queue_scores,
    soft_cross_entropy,
    swapped_targets,
    target_figures,
)
from swamp_dist.records import BatchPlan, LossTerms, PairEmbeddings

logger = logging.getLogger(__name__)


@final
class Objective:
    """L = L_c + lambda * L_s (eq. 6), with the queue and the potentials that live from step to step.

    Made by `build_objective`. Every rank of a world calls it once a step, with its rows of the same batch.
    """

    def __init__(
        self,
        settings: ObjectiveSettings,
        plan: BatchPlan,
        queue: Queue | None,
        start_rows: int,
        is_split: bool,
    ) -> None:
        self.settings = settings
        self.plan = plan
        self.queue = queue
        self.is_split = is_split
        """True where each rank solves a share of the rows, False where each solves all."""
        self.last_usage: Tensor | None = None
        """`prototype_usage` of the last step; None before the SwAMP term counts."""
        self._log_v: Tensor | None = None
        self._memory = SolveMemory(int(settings.swamp.sinkhorn.score_memory))
        self._start_rows = start_rows
        self._announced = False

    def __call__(
        self,
        embeddings: PairEmbeddings,
        ids: Tensor,
        entries: Tensor,
        step: int,
        world: World,
        pending_a: Pending | None = None,
    ) -> LossTerms:
        """Loss of this rank's pairs; its mean over ranks is the loss of the global batch.

        Args:
            embeddings: rows a, b (b, D) and prototypes (K, D), with gradient.
            ids: (b,) sample ids, kept in the queue.
            entries: (b,) position of each pair's entry in the global batch.
            step: steps done before this one.
            world: all ranks, equal b on each.
            pending_a: what `start_columns` gave for the rows of a, if it was called before.

        Raises:
            ValueError: the objective was built for another rank or number of ranks.
        """
        self._check_world(world)
        with full_precision(embeddings.a.device.type):
            mine = _at_least_float32(embeddings)
            # All gathers are on their way while my scores are computed.
            pending_a = pending_a or self.start_columns(mine.a, world)
            pending_b, all_ids = self.start_columns(mine.b, world), self._ids(ids, world)
            scores = _own_scores(mine)
            all_a = mine.a if pending_a is None else pending_a.wait()
            all_b = mine.b if pending_b is None else pending_b.wait()
            ranking, figures = ranking_term(
                self.settings.contrastive, self.plan, mine, all_a, all_b, entries, step, world
            )
            swamp, more = self._swamp_term(mine, scores, all_a, all_b, all_ids, step, world)
            total = _weighted(self.settings, mine, ranking, swamp)
        return LossTerms(total, ranking, swamp, figures | more)

    def _check_world(self, world: World) -> None:
        deal = None if self.queue is None else self.queue.deal
        if deal is not None and (deal.rank, deal.world_size) != (world.rank, world.size):
            raise ValueError(
                f"the queue was built for rank {deal.rank} of {deal.world_size}, called on {world.rank} of {world.size}"
            )

    def start_columns(self, rows: Tensor, world: World) -> Pending | None:
        """Start to gather the rows (b, D) of one modality from all ranks, with gradient where the contrastive term
        needs it; None where neither that term nor a replicated queue asks for them. All ranks call it."""
        with_gradient = self.settings.contrastive.weight > 0
        is_replicated = self.queue is not None and self.queue.deal is None
        if world.size == 1 or not (with_gradient or is_replicated):
            return None
        return start_gather_rows(rows, world) if with_gradient else start_gather(rows, world)

    def _ids(self, ids: Tensor, world: World) -> Callable[[], Tensor]:
        """Start to gather the sample ids (B,) of a replicated queue; the answer waits for them. Mine (b,) else."""
        if self.queue is None or self.queue.deal is not None:
            return lambda: ids
        return start_gather(ids, world).wait

    def _swamp_term(
        self,
        mine: PairEmbeddings,
        scores: tuple[Tensor, Tensor] | None,
        all_a: Tensor,
        all_b: Tensor,
        ids: Callable[[], Tensor],
        step: int,
        world: World,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        if self.queue is None:
            return None, {}
        if mine.prototypes is None or scores is None:
            raise ValueError("the SwAMP term counts, but the model was built without prototypes")
        if self.queue.deal is None:
            self.queue.push(all_a.detach(), all_b.detach(), ids(), step)
        else:
            self.queue.push(mine.a.detach(), mine.b.detach(), ids(), step)
        figures = queue_figures(self.queue, step)
        if len(self.queue) < self._start_rows:
            return None, figures
        self._announce(step)
        solution = self._balance(mine.prototypes.detach(), world)
        swamp = self.settings.swamp
        scores_a, scores_b = scores
        targets = swapped_targets(
            scores_a.detach(), scores_b.detach(), solution, swamp.epsilon, swamp.assignment
        )
        choices = torch.stack((targets.a, targets.b)).argmax(dim=2)
        self.last_usage = prototype_usage(choices, swamp.prototypes, world)
        used = (self.last_usage > 0).sum() / min(swamp.prototypes, 2 * self.plan.pairs)
        loss = soft_cross_entropy(scores_a, scores_b, targets, swamp.temperature)
        return loss, figures | target_figures(targets, choices) | {"swamp/used_prototypes": used}

    def _balance(self, prototypes: Tensor, world: World) -> SinkhornSolution:
        """Solve the queue's valid rows (eq. 5); where split, each rank its own or a contiguous share of all."""
        assert self.queue is not None
        swamp = self.settings.swamp
        solution = solve(
            self._scores(self.queue, prototypes, world),
            len(self.queue),
            swamp.epsilon,
            world=world if self.is_split else None,
            log_v=self._log_v,
            iterations=swamp.sinkhorn.iterations,
            max_iterations=swamp.sinkhorn.max_iterations,
            tolerance=swamp.sinkhorn.tolerance,
            check_every=swamp.sinkhorn.check_every,
            momentum=swamp.sinkhorn.momentum,
            bound=1.0 if swamp.normalize_prototypes else None,  # cosines
            work=self._memory.kernel,
            graphs=self._memory.graphs,
        )
        if swamp.sinkhorn.warm_start:
            self._log_v = solution.log_v
        return solution

    def _scores(self, queue: Queue, prototypes: Tensor, world: World) -> Tensor | StreamedScores:
        """Scores of the rows that this rank solves, made anew for every pass if they would take too much memory."""
        part, parts = (world.rank, world.size) if self.is_split and queue.deal is None else (0, 1)
        rows = slice(queue.held * part // parts, queue.held * (part + 1) // parts)
        memory = self._memory.fit(rows.stop - rows.start, queue.most_held(parts), prototypes)
        precision = self.settings.swamp.sinkhorn.score_precision
        if memory.shape[1] < rows.stop - rows.start:
            return StreamedScores([side[rows] for side in queue.operands], prototypes, memory, precision)
        return queue_scores(queue, rows, prototypes, memory, precision)

    def _announce(self, step: int) -> None:
        if not self._announced:
            logger.info(
                "the SwAMP term counts from step %d on: %d rows are queued", step, len(self.queue or ())
            )
            self._announced = True

    def state(self, world: World) -> dict[str, Tensor]:
        """What a commit must keep, whole on rank 0: the queue of all ranks in insertion order, and the
        potentials where they are carried. {} without the SwAMP term. All ranks call it."""
        if self.queue is None:
            return {}
        state = {f"queue/{name}": rows for name, rows in self.queue.state(world).items()}
        return state if self._log_v is None else state | {"log_v": self._log_v.cpu()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`, on any world size and layout. Call it on all ranks; each keeps what is its own.

        Raises:
            ValueError: it belongs to another embedding size or number of prototypes.
        """
        if self.queue is None:
            return
        prefix = "queue/"
        self.queue.load({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        self._announced = len(self.queue) >= self._start_rows
        log_v = state.get("log_v")
        expected = (2, self.settings.swamp.prototypes)
        if log_v is not None and log_v.shape != expected:
            raise ValueError(f"the saved potentials have shape {tuple(log_v.shape)}, expected {expected}")
        self._log_v = None if log_v is None else log_v.to(self.queue.a)


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
    swamp = settings.swamp
    if swamp.weight == 0:
        return Objective(settings, plan, None, 0, is_split=False)
    placement = place(settings, plan.pairs, embedding_dim, plan.world_size, device.type != "cpu")
    check_swamp(swamp, placement.capacity)
    start = swamp.queue.start_when_filled
    start_rows = min(swamp.prototypes, placement.capacity) if start is None else start
    deal = Deal(plan.pairs, rank, plan.world_size) if placement.layout == "sharded" else None
    precision = swamp.sinkhorn.score_precision
    queue = Queue(placement.capacity, embedding_dim, device, dtype, deal, precision)
    return Objective(settings, plan, queue, start_rows, placement.is_split)


def _own_scores(mine: PairEmbeddings) -> tuple[Tensor, Tensor] | None:
    """Scores (b, K) of my a and b with the prototypes, with gradient; None where the model has none."""
    if mine.prototypes is None:
        return None
    return mine.a @ mine.prototypes.t(), mine.b @ mine.prototypes.t()


def _at_least_float32(embeddings: PairEmbeddings) -> PairEmbeddings:
    if embeddings.a.dtype == torch.float64:
        return embeddings
    prototypes = embeddings.prototypes
    return PairEmbeddings(
        embeddings.a.float(), embeddings.b.float(), None if prototypes is None else prototypes.float()
    )


def _weighted(
    settings: ObjectiveSettings, mine: PairEmbeddings, ranking: Tensor | None, swamp: Tensor | None
) -> Tensor:
    """The total (eq. 6). Before the SwAMP term counts, everything still gets a gradient, of zero: the
    engine reduces the same parameters on every step."""
    total = mine.a.new_zeros(())
    if ranking is not None:
        total = total + settings.contrastive.weight * ranking
    if swamp is not None:
        return total + settings.swamp.weight * swamp
    if settings.swamp.weight > 0:
        total = total + 0.0 * sum(x.sum() for x in mine if x is not None)
    return total
