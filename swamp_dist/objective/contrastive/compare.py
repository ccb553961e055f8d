"""One score matrix serves both directions: my b against the a of all ranks, a tile at a time.

y = b . a^T is made once, 2bBD operations, and the gradient of its rows and columns from it, 4bBD more. A tile
is made, judged and pulled on in the forward pass, since what a form derives from a similarity is known with
it; the backward pass only scales what was found. Nothing of the size of a tile is kept. A form with a
normaliser scans all tiles first; where they are several, each is made again to be pulled, 2bBD more.

Shape letters: b pairs on this rank, B pairs in the global batch, D embedding size, C columns of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from swamp_dist.distributed import Gathering, World, start_max_over_ranks
from swamp_dist.objective.contrastive.columns import Block, Columns, Gathered, Ring, pieces
from swamp_dist.objective.contrastive.infonce import InfoNce
from swamp_dist.objective.contrastive.mean_hinge import MeanHinge
from swamp_dist.objective.contrastive.negative_weights import PairWeights
from swamp_dist.objective.contrastive.pair_targets import PairTargets
from swamp_dist.objective.contrastive.positives import Positives
from swamp_dist.objective.contrastive.sigmoid import Sigmoid
from swamp_dist.objective.contrastive.tiles import Tile, new_side, new_sums, note_negatives
from swamp_dist.objective.products import Precision, add_product, multiply

_CACHED_SCORES = 2**16
"""Scores that a CPU core keeps in its cache: judged as many rows at a time, a tile is read once."""


@dataclass(frozen=True)
class Comparison:
    """How a batch is compared, on this rank."""

    form: MeanHinge | InfoNce | Sigmoid
    world: World
    first_row: int
    """Position of my first pair in the global batch."""
    chunk: int | None = None
    """Columns of a tile; None for all at once."""
    weights: PairWeights | None = None
    """None where all pairs weigh the same."""
    positives: Positives | None = None
    """None where a pair's partner is its only one."""
    takes_ring: bool = False
    """Whether columns go around the ranks; else they were gathered."""
    targets: PairTargets | None = None
    """Soft targets, of InfoNCE; None where a pair's partner has its target whole."""
    precision: Precision = "ieee"
    """Of the product and of both for its gradient."""
    is_logged: bool = True
    """Whether figures are wanted that the log alone shows; alike on all ranks."""


class Leaves(NamedTuple):
    """What a comparison sends a gradient to."""

    b: Tensor
    """(b, D) my rows."""
    a: Tensor
    """(B, D) all columns; on a ring (b, D) mine."""
    own: Tensor
    """(B,) similarity of each pair's a and b; (0,) for a form that does not subtract it."""
    scale: Tensor
    """0-d, of forms with logits."""
    bias: Tensor
    """0-d, of the sigmoid."""


class Compared(NamedTuple):
    """What a comparison found on this rank; the mean over ranks is that of the batch."""

    loss: Tensor
    """0-d, with gradient."""
    negative: Tensor
    """0-d: mean similarity of pairs that do not match."""
    hardest: Tensor | None
    """0-d: mean over rows and columns of the largest of them; None where the step is not logged."""
    target_entropy: Tensor | None = None
    """0-d: mean entropy of soft targets over rows and columns; None where there are none, or no log."""


def compare(leaves: Leaves, how: Comparison) -> Compared:
    """The loss of my rows against all columns.

    The gradient reaches all leaves: where a and own come from `gather_rows`, the average over ranks is the
    gradient of the whole batch. On a ring a is given what all ranks' losses send to it, and takes my loss to
    be weighed as theirs.
    """
    found: list[_Run] = []
    loss = _Compare.apply(*leaves, how, found)  # type: ignore[no-untyped-call]
    (run,) = found
    negatives = run.sums.negatives * how.world.size / run.num_negatives.clamp(min=1)
    if not how.is_logged:
        return Compared(loss, negatives, None)
    hardest = (run.rows.hardest.mean() + run.hardest.wait().mean()) / 2
    entropy = None if how.targets is None else run.sums.target_entropy / (2 * len(leaves.b))
    return Compared(loss, negatives, torch.where(run.num_negatives > 0, hardest, 0), entropy)


class _Compare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        *leaves, how, found = given
        run = _Run(Leaves(*leaves), how)
        found.append(run)
        run.scan()
        run.pull()
        ctx.unit = run.unit()
        ctx.save_for_backward(*run.gradients())
        loss: Tensor = run.sums.loss * ctx.unit
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        factor = upstream[0] * ctx.unit
        return (*(factor * gradient for gradient in ctx.saved_tensors), None, None)


class _Run:
    """One comparison: what the tiles so far found."""

    def __init__(self, leaves: Leaves, how: Comparison) -> None:
        self.leaves, self.how = leaves, how
        self.count = how.world.size * len(leaves.b)
        a = leaves.a.detach()
        self.source: Columns = Ring(a, how.world) if how.takes_ring else Gathered(a)
        mine = slice(how.first_row, how.first_row + len(leaves.b))
        own = leaves.own if len(leaves.own) else leaves.b.new_zeros(self.count)
        self.mine, self.columns, self.rows = mine, new_side(own), new_side(own[mine])
        self.sums = new_sums(leaves.b)
        self.on_b = torch.zeros_like(leaves.b)
        self.hardest = Gathering(self.columns.hardest, None, self.columns.hardest)
        self.num_negatives = (
            torch.tensor(self.count * (self.count - 1), device=own.device)
            if how.positives is None
            else how.positives.num_negatives()
        )
        self._kept: Tensor | None = None

    def scan(self) -> None:
        """Find the normalisers of all rows and columns, for a form that has them."""
        form = self.how.form
        if not isinstance(form, InfoNce):
            return
        for part in pieces(self.source.lap(), self.how.chunk):
            scores = self._scores(part)
            for tile in self._tiles(scores, part.start):
                note_negatives(tile, self.sums, keeps_hardest=self.how.is_logged)
                form.scan(tile)
                if tile.targets is not None and self.how.is_logged:
                    self.sums.target_entropy += torch.special.entr(tile.targets).sum()
            self._kept = scores if len(part.rows) == self.count else None
        self._start_hardest()
        form.add_ranks(self.columns, self.how.world)
        self.sums.loss += form.loss(self.rows, self.columns.part(self.mine))

    def pull(self) -> None:
        """Find the loss and every gradient."""
        for block, on_block, is_last in self.source.pulled():
            on_parts = torch.split(on_block, self.how.chunk or len(on_block))
            parts = list(pieces(iter([block]), self.how.chunk))
            for part, on_part in zip(parts, on_parts, strict=True):
                self._pull(part, on_part, is_last and part.start == parts[-1].start)

    def _pull(self, part: Block, on_part: Tensor, is_last: bool) -> None:
        form, scores = self.how.form, self._scores(part) if self._kept is None else self._kept
        for tile in self._tiles(scores, part.start):
            if not form.is_normalised:
                note_negatives(tile, self.sums, keeps_hardest=self.how.is_logged)
            form.pull(tile, self.sums)
        if is_last and not form.is_normalised:  # the products below do not wait for it
            self._start_hardest()
        add_product(self.on_b, scores, part.rows, self.how.precision)
        multiply(scores.t(), self.leaves.b, self.how.precision, out=on_part)

    def unit(self) -> Tensor | float:
        """What the sums count in; 0 in a batch without negatives, which has nothing to tell apart."""
        unit = self.how.form.unit(len(self.leaves.b), self.count)
        return unit if self.how.positives is None else unit * (self.num_negatives > 0).to(self.on_b.dtype)

    def gradients(self) -> Leaves:
        """Of all leaves, in units of `unit`."""
        on_own = self.columns.on_own
        on_own[self.mine] += self.rows.on_own
        own = on_own if len(self.leaves.own) else self.leaves.own
        return Leaves(self.on_b, self.source.gradient, own, self.sums.on_scale, self.sums.on_bias)

    def _scores(self, part: Block) -> Tensor:
        return multiply(self.leaves.b, part.rows.t(), self.how.precision)

    def _start_hardest(self) -> None:
        if self.how.is_logged:
            self.hardest = start_max_over_ranks(self.columns.hardest, self.how.world)

    def _tiles(self, scores: Tensor, start: int) -> Iterator[Tile]:
        """The scores of the columns from `start` on by rows: on a CPU as many as its cache holds."""
        how = self.how
        count, width = scores.shape
        block = slice(start, start + width)
        size = count if scores.is_cuda else max(1, _CACHED_SCORES // width)
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            first = how.first_row + part.start
            here = slice(first, first + part.stop - part.start)
            yield Tile(
                scores[part],
                self.rows.part(part),
                self.columns.part(block),
                first - block.start,
                None if how.weights is None else how.weights(part, block),
                None if how.positives is None else how.positives.matches(here, block),
                None if how.positives is None else how.positives.counts[here],
                None if how.targets is None else how.targets.tile(part, block),
            )
