"""How strongly the SwAMP term pulls at the embeddings beside the other terms, and the weight that follows.

With g_s the gradient of L_s with respect to the embeddings a and b of the whole batch, and g_c that of the
other terms with their weights (of the contrastive term, where users added none), the effective ratio is
lambda |g_s| / |g_c|. Adam hides the scale of a gradient, so this ratio and not lambda says which term leads;
at a fixed lambda it grows while the contrastive term learns its pairs. `weight_as: gradient_ratio` takes
lambda = min(weight, r |g_c| / |g_s|) instead. The cap matters: as |g_s| goes to 0, the ratio alone would grow
without bound.

Norms are those of one process with the whole batch: the root of the sum over ranks of squares, of rows to
which the gradient from other ranks' columns is added, over the world size (`gather_rows` says why). They are
read in the one backward pass of the step, every few steps; nothing is computed twice, no gradient changes.
"""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from torch import Tensor

from swamp_dist.config import SwampSettings
from swamp_dist.distributed import World, sum_over_ranks
from swamp_dist.records import PairEmbeddings


class Pulls(NamedTuple):
    """What measurements up to now say: 0-d float64, the same bits on every rank.

    Running means in which each measurement counts as much as all before it, so that they follow a norm that
    falls a hundredfold within a run. They are taken of the norms and not of their quotient: one batch in
    which |g_s| happens to be near 0 would rule a mean of quotients.
    """

    others: Tensor
    """Running mean of |g_c|."""
    swamp: Tensor
    """Running mean of |g_s|, before its weight."""
    effective: Tensor
    """lambda |g_s| / |g_c| when it was measured last: inf where only SwAMP pulls, nan where nothing does."""


def weight_for(pulls: Pulls, ratio: float, cap: float) -> Tensor:
    """lambda = min(cap, ratio * |g_c| / |g_s|), `cap` where both are 0; 0-d float64."""
    wanted = ratio * pulls.others / pulls.swamp
    return torch.where(wanted.isnan(), cap, wanted.clamp(max=cap))


def after_measurement(before: Pulls | None, others: Tensor, weighted: Tensor, weight: Tensor) -> Pulls:
    """The running means with one measurement more.

    Args:
        before: None for the first one.
        others: |g_c|, 0-d float64 as all of them.
        weighted: lambda |g_s|.
        weight: the lambda of that step. Where it is 0, nothing was seen of |g_s| and its mean stays.
    """
    effective, swamp = weighted / others, weighted / weight
    if before is None:
        return Pulls(others, swamp, effective)
    swamp = torch.where(weight > 0, swamp, before.swamp)
    return Pulls((before.others + others) / 2, (before.swamp + swamp) / 2, effective)


@final
class _Side:
    """The norms of what reaches one modality's rows in a backward pass."""

    def __init__(self) -> None:
        self._swamp: Tensor | None = None
        self.norms: Tensor | None = None
        """(2,) float64 of my rows: the other terms, SwAMP with its weight; None before the backward pass."""

    def watch(self, rows: Tensor, source: Tensor) -> Tensor:
        """`rows` (b, D) for the scores of SwAMP alone; `source` is what all uses of them come from."""
        scored = rows.view_as(rows)
        scored.register_hook(self._note_swamp)  # type: ignore[no-untyped-call]
        source.register_hook(self._note_all)  # type: ignore[no-untyped-call]
        return scored

    def _note_swamp(self, gradient: Tensor) -> None:
        self._swamp = gradient.detach()

    def _note_all(self, gradient: Tensor) -> None:
        if self._swamp is None:  # the term does not count yet
            return
        # A difference of sums that autograd makes anyhow: adding up two parts here could round differently,
        # and training would depend on whether it is watched.
        parts = gradient.detach() - self._swamp, self._swamp
        norms = [torch.linalg.vector_norm(part, dtype=torch.float64) for part in parts]
        self.norms, self._swamp = torch.stack(norms), None


@final
class GradientRatio:
    """The weight of the SwAMP term from step to step."""

    def __init__(self, settings: SwampSettings) -> None:
        self._settings = settings
        self._sides: list[_Side] = []
        self._weight: Tensor | None = None
        self.pulls: Pulls | None = None
        """None before the first measurement."""

    def watch(self, mine: PairEmbeddings, source_a: Tensor, step: int) -> PairEmbeddings:
        """The rows that the scores of SwAMP are made from; on steps that measure, they tell its gradient
        apart.

        These are the first step in which the term counts, and every `measure_every`-th. A side without
        gradient, of a frozen encoder, counts as 0.

        Args:
            mine: this rank's rows.
            source_a: the rows of a that were sent to other ranks: ZeRO-3 hands on another tensor than that.
            step: steps done before this one.
        """
        every, self._sides = self._settings.measure_every, []
        if every is None or not (self.pulls is None or (step + 1) % every == 0):
            return mine
        if not torch.is_grad_enabled():
            return mine
        return mine._replace(a=self._watch(mine.a, source_a), b=self._watch(mine.b, mine.b))

    def _watch(self, rows: Tensor, source: Tensor) -> Tensor:
        if not (rows.requires_grad and source.requires_grad):
            return rows
        self._sides.append(_Side())
        return self._sides[-1].watch(rows, source)

    def forget(self) -> None:
        """The term does not count in this step: there is nothing to measure."""
        self._sides = []

    def weight(self, like: Tensor) -> Tensor:
        """lambda of this step, by measurements of steps before it: 0-d on the device and of the type of
        `like`."""
        settings = self._settings
        if settings.weight_as == "literal" or self.pulls is None:
            self._weight = like.new_full((), settings.weight)
        else:
            self._weight = weight_for(self.pulls, settings.gradient_ratio, settings.weight).to(like)
        return self._weight

    def measure(self, world: World) -> None:
        """Take in what the backward pass of a step that measures has shown. All ranks call it.

        Raises:
            ValueError: there was no backward pass.
        """
        if not self._sides or self._weight is None:
            return
        norms = [side.norms for side in self._sides if side.norms is not None]
        if not norms:
            raise ValueError("the ratio of gradients is measured after the backward pass")
        self._sides = []
        squares = sum_over_ranks(torch.stack(norms).square().sum(dim=0), world)
        others, weighted = squares.sqrt() / world.size
        self.pulls = after_measurement(self.pulls, others, weighted, self._weight.double())

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must keep; {} before the first measurement."""
        return {} if self.pulls is None else {"gradient_ratio": torch.stack(self.pulls).cpu()}

    def load_state(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Go on from `state`, on any world size.

        Raises:
            ValueError: it is none.
        """
        saved = state.get("gradient_ratio")
        if saved is not None and saved.shape != (len(Pulls._fields),):
            raise ValueError(f"the saved ratio of gradients has shape {tuple(saved.shape)}, expected (3,)")
        self.pulls = None if saved is None else Pulls(*saved.to(device, torch.float64))
