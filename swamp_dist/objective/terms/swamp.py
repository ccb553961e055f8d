"""The SwAMP term: queue, balanced assignment, swapped targets, cross-entropy (paper, section 3, Algorithm 1).

L_s = E[-sum_k q^A log p(k | a)] + E[-sum_k q^B log p(k | b)] (eq. 4), where the targets q solve a balanced
assignment of all queued rows to the prototypes (eq. 5), those for a from the scores of b and the reverse.
Shape letters: b pairs on this rank, B in the global batch, D embedding size, K prototypes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from swamp_dist.config import ObjectiveSettings, SwampSettings
from swamp_dist.distributed import World
from swamp_dist.objective.advice import loss_floor
from swamp_dist.objective.checks import check_swamp, rows_to_start
from swamp_dist.objective.gradient_ratio import GradientRatio
from swamp_dist.objective.placement import choose_placement
from swamp_dist.objective.queue import Queue, QueueShard, queue_figures
from swamp_dist.objective.solve.passes import Passes, choose_passes, passes_code, resume_passes
from swamp_dist.objective.solve.scores import RowWeights
from swamp_dist.objective.solve.sinkhorn import SinkhornSolution, StreamedScores, solve
from swamp_dist.objective.solve.solve_memory import SolveMemory
from swamp_dist.objective.targets import (
    prototype_usage,
    queue_scores,
    soft_cross_entropy,
    swapped_targets,
    target_figures,
)
from swamp_dist.objective.term import Term, TermInputs
from swamp_dist.product_library import products_by
from swamp_dist.records import BatchPlan, SoftTargets

TAGS: Mapping[str, str] = {
    "loss/swamp": "Swapped-assignment term before its weight (lambda), mean over ranks.",
    "swamp/loss_floor": "What loss/swamp cannot fall below: 2 ln(1 + (K - 1) e^(-1 / temperature)).",
    "swamp/weight": "Factor of the term in the total (lambda) in this step.",
    "swamp/effective_ratio": "lambda |g_s| / |g_c| at the embeddings, as measured last; above 1 SwAMP leads.",
    "swamp/target_entropy": "Mean entropy of the soft targets in nats; near 0 they are hard.",
    "swamp/target_entropy_max": "Largest possible target entropy, ln K; targets near it say nothing.",
    "swamp/used_prototypes": "Prototypes that are the arg-max of some target; a small number tells collapse.",
    "swamp/marginal_error": "Mean relative error of the prototype masses in the Sinkhorn solve.",
    "swamp/agreement": "Share of pairs whose two sides have the same arg-max target.",
    "swamp/iterations": "Sinkhorn iterations of the step.",
    "swamp/repeats": "Iterations repeated because a column mass left the range of floats.",
    "swamp/prototype_use": "Histogram of how the targets' mass is shared over prototypes (TensorBoard only).",
    "queue/fill": "Share of the queue's rows that are valid.",
    "queue/unique": "Share of the valid queue rows that count, with objective.swamp.queue.unique_items.",
    "queue/age_mean": "Mean age of the valid queue rows, in steps.",
    "queue/age_max": "Age of the oldest valid queue row, in steps.",
}

logger = logging.getLogger(__name__)
_STARTED = "started"
"""Of the state, with `unique_items`."""
_PASSES = "passes"
"""Of the state: `passes_code`."""


@final
class SwampTerm:
    """The term with what lives from step to step: the queue, and the potentials of a warm start."""

    def __init__(
        self,
        settings: SwampSettings,
        queue: Queue,
        start_rows: int,
        is_split: bool,
        passes: Passes = "torch",
    ) -> None:
        self.settings = settings
        self.passes = passes
        """What passes over the scores of a solve."""
        self.queue = queue
        self.is_split = is_split
        """True where each rank solves a share of the rows, False where each solves all."""
        self.last_usage: Tensor | None = None
        """`prototype_usage` of the last step that was logged; None before the term counts."""
        self.ratio = GradientRatio(settings)
        """The weight, and how strongly the term pulls with it."""
        self._start_rows = start_rows
        self._log_v: Tensor | None = None
        self._memory = SolveMemory(int(settings.sinkhorn.score_memory))
        self._has_started = False

    def __call__(self, inputs: TermInputs) -> Term:
        """L_s of my pairs; without a loss while fewer rows are queued than the settings ask for.

        Raises:
            ValueError: the model was built without prototypes.
        """
        mine, swamp = inputs.mine, self.settings
        if mine.prototypes is None or inputs.scores is None:
            raise ValueError("the SwAMP term counts, but the model was built without prototypes")
        # 1. Put the batch into the queue.
        self._push(inputs)
        counting = self.queue.counting(inputs.plan.pairs) if swamp.queue.unique_items else None
        figures = self._queue_figures(counting, inputs.step) if inputs.is_logged else {}
        if not self._starts(counting, inputs):
            self.ratio.forget()
            return Term(swamp.weight, None, figures)
        # 2. Balance the queued rows over the prototypes (eq. 5).
        a, b = inputs.scores
        mine_scores = a.detach(), b.detach()
        solution = self._balance(mine.prototypes.detach(), mine_scores, counting, inputs.world)
        # 3. Targets of my rows, swapped (eq. 3).
        targets = swapped_targets(
            *mine_scores, solution, swamp.epsilon, swamp.assignment, is_compiled=self.passes == "numba"
        )
        # 4. Cross-entropy of my predictions against them (eq. 4).
        loss = soft_cross_entropy(a, b, targets, swamp.temperature)
        weight = self.ratio.weight(loss)
        # 5. What tells a collapse early.
        if inputs.is_logged:
            figures |= self._figures(targets, inputs) | {"swamp/weight": weight}
        return Term(weight, loss, figures, targets)

    def _queue_figures(self, counting: Tensor | None, step: int) -> dict[str, Tensor]:
        figures = queue_figures(self.queue, step)
        if counting is not None:
            figures["queue/unique"] = counting.to(self.queue.a.dtype).mean()
        return figures

    def _figures(self, targets: SoftTargets, inputs: TermInputs) -> dict[str, Tensor]:
        """Of the targets, and how they use the prototypes. A small all-reduce."""
        choices = torch.stack((targets.a, targets.b)).argmax(dim=2)
        self.last_usage = prototype_usage(choices, self.settings.prototypes, inputs.world)
        used = (self.last_usage > 0).sum() / min(self.settings.prototypes, 2 * inputs.plan.pairs)
        figures = target_figures(targets, choices) | {"swamp/used_prototypes": used}
        if (floor := loss_floor(self.settings)) is not None:
            figures["swamp/loss_floor"] = targets.a.new_full((), floor)
        return figures

    def check_world(self, world: World) -> None:
        """Raise ValueError where a sharded queue was built for another rank or number of ranks."""
        shard = self.queue.shard
        if shard is not None and (shard.rank, shard.world_size) != (world.rank, world.size):
            raise ValueError(
                f"the queue was built for rank {shard.rank} of {shard.world_size}, "
                f"called on {world.rank} of {world.size}"
            )

    def _push(self, inputs: TermInputs) -> None:
        """All pairs of the batch into a replicated queue, mine into a sharded one."""
        a, b = inputs.gathered() if self.queue.is_replicated else (inputs.mine.a, inputs.mine.b)
        self.queue.push(a.detach(), b.detach(), inputs.all_ids(), inputs.step)

    def _starts(self, counting: Tensor | None, inputs: TermInputs) -> bool:
        """Whether the term counts: from the first step on that has enough rows, and then always.

        Rows of an item that has come again count no more, so their number may fall; a term that went off and
        on with it would say little. The host reads it only until the term has started, and not where the
        batch alone is enough.
        """
        if not self._has_started and len(self.queue) >= self._start_rows:
            asks = counting is not None and inputs.plan.pairs < self._start_rows
            rows = int(counting.sum()) if counting is not None and asks else len(self.queue)
            self._has_started = rows >= self._start_rows
            if self._has_started:
                logger.info("the SwAMP term counts from step %d on: %d rows are queued", inputs.step, rows)
        return self._has_started

    def _balance(
        self,
        prototypes: Tensor,
        mine_scores: tuple[Tensor, Tensor],
        counting: Tensor | None,
        world: World,
    ) -> SinkhornSolution:
        """Solve the queue's valid rows that count (eq. 5); where split, each rank its own or a contiguous
        share of all. `mine_scores` are those (b, K) of the batch."""
        weights = None if counting is None else self._weights(counting, world)
        scores = self._scores(prototypes, mine_scores, world)
        with products_by("blas"):  # matrices times vectors
            solution = self._solve(scores, weights, world)
        if self.settings.sinkhorn.warm_start:
            self._log_v = solution.log_v
        return solution

    def _solve(
        self, scores: Tensor | StreamedScores, weights: RowWeights | None, world: World
    ) -> SinkhornSolution:
        swamp, sinkhorn = self.settings, self.settings.sinkhorn
        return solve(
            scores,
            len(self.queue),
            swamp.epsilon,
            world=world if self.is_split else None,
            log_v=self._log_v,
            iterations=sinkhorn.iterations,
            max_iterations=sinkhorn.max_iterations,
            tolerance=sinkhorn.tolerance,
            check_every=sinkhorn.check_every,
            momentum=sinkhorn.momentum,
            bound=1.0 if swamp.normalize_prototypes else None,  # cosines
            work=self._memory.kernel,
            graphs=self._memory.graphs,
            weights=self._memory.keep(weights),
            literal=swamp.temperature if sinkhorn.start == "literal" else None,
            is_compiled=self.passes == "numba",
        )

    def _scores(
        self, prototypes: Tensor, mine_scores: tuple[Tensor, Tensor], world: World
    ) -> Tensor | StreamedScores:
        """Scores of the rows that this rank solves, those of the batch where it is all of them; made anew for
        every pass if they would take too much memory."""
        queue, precision = self.queue, self.settings.sinkhorn.score_precision
        rows, parts = self._share(world)
        memory = self._memory.fit(rows.stop - rows.start, queue.most_held(parts), prototypes)
        if memory.shape[1] < rows.stop - rows.start:
            return StreamedScores([side[rows] for side in queue.operands], prototypes, memory, precision)
        if queue.is_batch(len(mine_scores[0])) and rows == slice(0, queue.held) and precision == "float32":
            for side, scores in zip(mine_scores, memory, strict=True):
                scores.copy_(side)
            return memory
        return queue_scores(queue, rows, prototypes, memory, precision)

    def _weights(self, counting: Tensor, world: World) -> RowWeights:
        """1 for every row that this rank solves and that counts, 0 for the others."""
        rows, _ = self._share(world)
        mine = self.queue.of_mine(counting)[rows].to(self.queue.a.dtype)
        return RowWeights(mine, counting.sum(dtype=torch.float64))

    def _share(self, world: World) -> tuple[slice, int]:
        """Which of the rows held here this rank solves, and among how many ranks they are shared: one of even
        shares of a replicated queue, of a sharded one all."""
        held, parts = self.queue.held, world.size if self.is_split and self.queue.is_replicated else 1
        part = world.rank if parts > 1 else 0
        return slice(held * part // parts, held * (part + 1) // parts), parts

    def state(self, world: World) -> dict[str, Tensor]:
        """What a checkpoint must keep, whole on rank 0: the queue of all ranks in insertion order, the
        potentials where they are carried, and with `unique_items` whether the term has started, which its
        rows do not tell. All ranks call it."""
        state = {f"queue/{name}": rows for name, rows in self.queue.state(world).items()}
        state |= self.ratio.state() | {_PASSES: passes_code(self.passes)}
        if self.settings.queue.unique_items:
            state[_STARTED] = torch.tensor(self._has_started)
        return state if self._log_v is None else state | {"log_v": self._log_v.cpu()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`, on any world size and layout. Call it on all ranks; each keeps what is its own.

        Raises:
            ValueError: it belongs to another embedding size or number of prototypes.
        """
        prefix = "queue/"
        self.queue.load({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        rows = len(self.queue)
        if self.settings.queue.unique_items and _STARTED not in state:  # a queue of a run without
            rows = int(self.queue.counting(0).sum())
        self._has_started = bool(state.get(_STARTED, rows >= self._start_rows))
        self.ratio.load_state(state, self.queue.a.device)
        self.passes = resume_passes(self.passes, state.get(_PASSES))
        log_v = state.get("log_v")
        expected = (2, self.settings.prototypes)
        if log_v is not None and log_v.shape != expected:
            raise ValueError(f"the saved potentials have shape {tuple(log_v.shape)}, expected {expected}")
        self._log_v = None if log_v is None else log_v.to(self.queue.a)


def build_swamp_term(
    settings: ObjectiveSettings,
    plan: BatchPlan,
    embedding_dim: int,
    device: torch.device,
    dtype: torch.dtype,
    rank: int,
) -> SwampTerm:
    """The term of a stage, with an empty queue that lies where `choose_placement` says.

    Raises:
        UserError: settings under which the term could never count.
    """
    swamp = settings.swamp
    placement = choose_placement(settings, plan.pairs, embedding_dim, plan.world_size, device.type != "cpu")
    check_swamp(swamp, placement.capacity)
    start_rows = rows_to_start(swamp, placement.capacity)
    shard = QueueShard(plan.pairs, rank, plan.world_size) if placement.layout == "sharded" else None
    precision = swamp.sinkhorn.score_precision
    queue = Queue(
        placement.capacity,
        embedding_dim,
        device,
        dtype,
        shard,
        precision,
        unique_items=swamp.queue.unique_items,
    )
    solved = -(-placement.capacity // (plan.world_size if placement.is_split else 1))
    passes = choose_passes(solved, swamp.prototypes, device, dtype)
    return SwampTerm(swamp, queue, start_rows, placement.is_split, passes)
