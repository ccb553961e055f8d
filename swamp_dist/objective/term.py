"""What every term of the total loss is given, and what it gives back.

Shape letters: b pairs on this rank, B in the global batch, D embedding size, K prototypes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from swamp_dist.distributed import World
from swamp_dist.objective.products import Precision
from swamp_dist.records import BatchPlan, LossTerms, PairEmbeddings, SoftTargets
from swamp_dist.row_exchange import Pending


class StepObjective(Protocol):
    """What a training step asks of an objective, and what a commit keeps of it."""

    @property
    def passes(self) -> str | None:
        """As `Objective.passes`."""

    @property
    def effective_ratio(self) -> Tensor | None:
        """As `Objective.effective_ratio`."""

    @property
    def last_usage(self) -> Tensor | None:
        """As `Objective.last_usage`."""

    def __call__(
        self,
        given: Any,
        ids: Tensor,
        entries: Tensor,
        step: int,
        world: World,
        pending_a: Pending | None = None,
        labels: Tensor | None = None,
        is_logged: bool = True,
        /,
    ) -> LossTerms:
        """Loss of this rank's pairs, of which `given` is what the model gave for them."""

    def measure(self, terms: LossTerms, world: World) -> LossTerms:
        """As `Objective.measure`."""

    def start_columns(self, rows: Tensor, world: World, side: Literal["a", "b"] = "a") -> Pending | None:
        """As `Objective.start_columns`."""

    def state(self, world: World) -> dict[str, Tensor]:
        """As `Objective.state`."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """As `Objective.load_state`."""


@dataclass(frozen=True)
class TermInputs:
    """One step, as its terms see it: this rank's pairs, and the pairs of all ranks where they were
    gathered."""

    plan: BatchPlan
    mine: PairEmbeddings
    """Rows a, b (b, D) and prototypes (K, D) or None, at least float32, with gradient."""
    scores: tuple[Tensor, Tensor] | None
    """(b, K) of my a and b with the prototypes, with gradient; None where the model has none."""
    columns: tuple[Tensor | None, Tensor | None]
    """(B, D) of a and b in the order of ranks, as `placement.gathered_sides` says: with
    gradient, without, or None."""
    all_ids: Callable[[], Tensor]
    """Ids of the items (B,) where the queue `takes_all_ids`, waited for; mine (b,) else."""
    entries: Tensor
    """(b,) position of each pair's entry in the global batch."""
    step: int
    """Steps done before this one."""
    world: World
    all_own: Tensor | None = None
    """(B,) similarity of each pair's a and b, with gradient; None where no term subtracts those of others."""
    labels: Tensor | None = None
    """(b,) class of each of my pairs; None where no term asks."""
    class_vectors: Tensor | None = None
    """(classes, E) vectors of the classes' names; None where no term asks."""
    is_ring: bool = False
    """Whether the contrastive term takes its columns around the ranks."""
    targets: SoftTargets | None = None
    """Swapped targets of my pairs, where they weigh negatives and SwAMP counts in this step."""
    precision: Precision = "ieee"
    """Of products that compare the batch."""
    is_logged: bool = True
    """Whether figures are wanted that take time and that the log alone shows; alike on all ranks."""

    @property
    def first_row(self) -> int:
        """Position of my first pair in the global batch."""
        return self.world.rank * len(self.mine.a)

    def gathered(self) -> tuple[Tensor, Tensor]:
        """`columns`, for a term that cannot do without.

        Raises:
            ValueError: one of them was not gathered.
        """
        a, b = self.columns
        if a is None or b is None:
            raise ValueError("a term needs both sides of all ranks: `placement.gathered_sides` says who does")
        return a, b

    def gathered_a(self) -> Tensor:
        """The a of all ranks (B, D), for a term that needs no more.

        Raises:
            ValueError: it was not gathered.
        """
        if self.columns[0] is None:
            raise ValueError("a term needs the a of all ranks: `placement.gathered_sides` says who does")
        return self.columns[0]

    @cached_property
    def own(self) -> Tensor:
        """Similarity (b,) of each of my pairs' a and b, without gradient."""
        return (self.mine.a.detach() * self.mine.b.detach()).sum(dim=1)


@dataclass(frozen=True)
class Term:
    """One term of the total on this rank, before its weight."""

    weight: float | Tensor = 0.0
    """Its factor in the total, 0-d where it is one of the device; 0 where the settings leave the term out."""
    loss: Tensor | None = None
    """0-d with gradient, a mean over my rows; None where the term does not count in this step, alike on all
    ranks."""
    figures: Mapping[str, Tensor] = field(default_factory=dict)
    """0-d tensors without gradient by metric tag; where the step is not logged, maybe some of them."""
    targets: SoftTargets | None = None
    """Of my pairs, of the SwAMP term where it counts."""


def weighted_total(terms: Mapping[str, Term], mine: PairEmbeddings) -> Tensor:
    """sum of weight * loss over the terms that count (eq. 6); 0-d.

    Before a term counts, everything still gets a gradient, of zero: the engine reduces the same parameters on
    every step.
    """
    parts = list[Tensor]()
    for term in terms.values():
        if term.loss is not None:
            parts.append(term.weight * term.loss)
        elif term.weight > 0:
            parts.append(_nothing(mine))
    if mine.words is not None:  # heads of a term that is off, too
        parts.append(_nothing((mine.words, mine.domains)))
    return reduce(torch.add, parts) if parts else mine.a.new_zeros(())


def _nothing(tensors: Iterable[Tensor | None]) -> Tensor:
    """0 with a gradient of zero for all of them; nan where one holds nan."""
    return 0.0 * reduce(torch.add, (x.sum() for x in tensors if x is not None))
