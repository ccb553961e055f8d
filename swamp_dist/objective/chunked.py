"""The contrastive term a block of columns at a time: the same losses and gradients as the formulas of
`contrastive`, without the (b, B) similarities.

Shape letters: b pairs on this rank, B pairs in the global batch, D embedding size, C columns of a block.
Beyond the gathered embeddings and their gradient, memory is O(b * C): independent of the world size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

BlockWeights = Callable[[slice], Tensor]
"""Weights (b, C) of a block of columns."""


def mean_over_negatives(
    a: Tensor,
    b: Tensor,
    all_a: Tensor,
    all_b: Tensor,
    first_row: int,
    margin: float,
    chunk: int,
    weights: BlockWeights | None = None,
) -> tuple[Tensor, Tensor]:
    """`contrastive.mean_over_negatives` of my a, b (b, D) against all columns (B, D), `chunk` at a time.

    Returns:
        The loss, 0-d, and the largest similarity of each row with another pair, (2, b) without gradient.
    """
    total, hardest = _MeanOverNegatives.apply(  # type: ignore[no-untyped-call]
        a, b, all_a, all_b, first_row, margin, chunk, weights
    )
    return total, hardest


def hardest_negative(
    a: Tensor,
    b: Tensor,
    all_a: Tensor,
    all_b: Tensor,
    first_row: int,
    margin: float,
    chunk: int,
    reduction: Literal["mean", "sum"] = "mean",
) -> tuple[Tensor, Tensor]:
    """`contrastive.hardest_negative` of my a, b (b, D) against all columns (B, D), `chunk` at a time.

    Which column is hardest is searched without gradient; the loss then meets only the 2b chosen ones.

    Returns:
        The loss, 0-d, and the largest similarity of each row with another pair, (2, b) without gradient.
    """
    # Indexing and not index_select: its backward pass adds in a fixed order on a GPU too.
    hard_a = (a * all_b[hardest_columns(a, all_b, first_row, chunk)]).sum(1)
    hard_b = (b * all_a[hardest_columns(b, all_a, first_row, chunk)]).sum(1)
    own = (a * b).sum(1)
    loss = ((margin + hard_a - own).relu() + (margin + hard_b - own).relu()).mean()
    loss = loss * len(all_a) if reduction == "sum" else loss
    return loss, torch.stack((hard_a, hard_b)).detach()


def hardest_columns(rows: Tensor, columns: Tensor, first_row: int, chunk: int) -> Tensor:
    """Index (b,) of the column (B, D) most similar to each row (b, D) but its own. Ties go to the lowest."""
    best = rows.new_full((len(rows),), -torch.inf)
    index = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    with torch.no_grad():
        for block in _blocks(len(columns), chunk):
            scores = rows @ columns[block].t()
            scores.diagonal(first_row - block.start).fill_(-torch.inf)
            where = scores.argmax(dim=1)  # the first of equals, which `max` does not promise
            value = scores.gather(1, where[:, None])[:, 0]
            better = (value > best) | value.isnan()  # a NaN stays, so that the loss shows it
            index = torch.where(better, where + block.start, index)
            best = torch.where(better, value, best)
    return index


def _blocks(count: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, count)) for start in range(0, count, chunk))


class _Direction(NamedTuple):
    """Sums over one direction, and their derivatives."""

    total: Tensor
    """0-d: sum of the weighted hinges of my rows and all columns."""
    on_rows: Tensor
    """(b, D)"""
    on_own: Tensor
    """(b,): how often a row's own similarity is subtracted, by weight."""
    on_columns: Tensor
    """(B, D)"""
    hardest: Tensor
    """(b,): largest similarity of each row with another column."""


def _direction(
    rows: Tensor,
    own: Tensor,
    columns: Tensor,
    first_row: int,
    margin: float,
    chunk: int,
    weights: BlockWeights | None,
) -> _Direction:
    """sum_j W_ij [m + x_ij - x_ii]+ of my rows i, with x_ii in `own` (b,)."""
    total, on_own = own.new_zeros(()), torch.zeros_like(own)
    on_rows, on_columns = torch.zeros_like(rows), torch.empty_like(columns)
    hardest = torch.full_like(own, -torch.inf)
    for block in _blocks(len(columns), chunk):
        scores, offset = rows @ columns[block].t(), first_row - block.start
        hinges = (margin + scores - own[:, None]).relu_()
        # The hinge of a row with itself is the margin exactly: a floor without gradient.
        hinges.diagonal(offset).fill_(margin)  # empty where none of my pairs is in the block
        scores.diagonal(offset).fill_(-torch.inf)
        hardest = torch.maximum(hardest, scores.amax(dim=1))
        active = (hinges > 0).to(rows.dtype)
        if weights is not None:
            weight = weights(block)
            hinges, active = hinges.mul_(weight), active.mul_(weight)
        active.diagonal(offset).zero_()
        total += hinges.sum()
        on_own += active.sum(dim=1)
        on_rows += active @ columns[block]
        torch.mm(active.t(), rows, out=on_columns[block])
    return _Direction(total, on_rows, on_own, on_columns, hardest)


class _MeanOverNegatives(torch.autograd.Function):
    """A hinge's gradient is known with the hinge, so the blocks are visited once, in the forward pass.

    Checkpointing each block instead would compute its similarities twice and keep no less.
    """

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        all_a: Tensor,
        all_b: Tensor,
        first_row: int,
        margin: float,
        chunk: int,
        weights: BlockWeights | None,
    ) -> tuple[Tensor, Tensor]:
        own, count = (a * b).sum(1), len(a) * len(all_a)
        one = _direction(a, own, all_b, first_row, margin, chunk, weights)
        other = _direction(b, own, all_a, first_row, margin, chunk, weights)
        pulls = (one.on_own + other.on_own)[:, None]
        gradients = (one.on_rows - pulls * b, other.on_rows - pulls * a, other.on_columns, one.on_columns)
        ctx.save_for_backward(*(gradient.div_(count) for gradient in gradients))
        hardest = torch.stack((one.hardest, other.hardest))
        ctx.mark_non_differentiable(hardest)
        return (one.total + other.total) / count, hardest

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (*(upstream[0] * gradient for gradient in ctx.saved_tensors), None, None, None, None)
