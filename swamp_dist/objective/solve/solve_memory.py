"""What a rank keeps from solve to solve: on a CPU fresh pages cost more than the solve, and graphs need
addresses."""

from __future__ import annotations

from torch import Tensor

from swamp_dist.objective.memory import block_rows
from swamp_dist.objective.solve.block_graphs import BlockGraphs
from swamp_dist.objective.solve.masses import is_fused, new_kernel
from swamp_dist.objective.solve.scores import RowWeights


class SolveMemory:
    """Memory for scores and kernel within a limit of bytes, and on a GPU the graphs that live in it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._scores: Tensor | None = None
        self.kernel: Tensor | None = None
        """As `new_kernel` makes it for the scores that `fit` gave last."""
        self.graphs: BlockGraphs | None = None
        """None where blocks are not recorded: on a CPU, and on all ranks where one has to stream its
        scores."""
        self._graphs = BlockGraphs()
        self._weights: RowWeights | None = None

    def fit(self, rows: int, most_rows: int, prototypes: Tensor) -> Tensor:
        """Memory (2, m, K) for the scores of m <= `rows` rows with prototypes (K, D), the same while sizes
        are.

        `most_rows` has the rank with most of them: what is recorded must be so on all ranks.
        """
        block = min(rows, self._fitting(rows, prototypes))  # a rank may hold none
        if self._scores is None or self._scores.shape[1] != block:
            self._scores = prototypes.new_empty(2, block, len(prototypes))
            self.kernel = new_kernel(self._scores)
        is_kept = self._fitting(most_rows, prototypes) >= most_rows
        self.graphs = self._graphs if is_fused(prototypes) and is_kept else None
        return self._scores

    def keep(self, weights: RowWeights | None) -> RowWeights | None:
        """A copy of `weights` that lies where the last one of as many rows lay."""
        kept = self._weights
        if weights is None or kept is None or kept.mine.shape != weights.mine.shape:
            self._weights = weights
            return weights
        kept.mine.copy_(weights.mine)
        kept.total.copy_(weights.total)
        return kept

    def _fitting(self, rows: int, prototypes: Tensor) -> int:
        return block_rows(
            rows, len(prototypes), self._limit, prototypes.element_size(), on_gpu=is_fused(prototypes)
        )
