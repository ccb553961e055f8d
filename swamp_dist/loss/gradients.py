"""What happens to gradients on their way out of the loss: the identity forward, something of use backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from swamp_dist.distributed import World, mean_over_ranks


class _Averaged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, world: World) -> Tensor:
        ctx.world = world
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return mean_over_ranks(gradient.clone(memory_format=torch.contiguous_format), ctx.world), None


class _Noticed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, notice: Callable[[], None], *rows: Tensor) -> tuple[Tensor, ...]:
        ctx.notice = notice
        return tuple(each.view_as(each) for each in rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.notice()
        return None, *gradients


def average_gradient(values: Tensor, world: World) -> Tensor:
    """`values`, whose gradient becomes its mean over ranks in every backward pass; one all-reduce.

    A mean of equal values is the value: averaging once more, as a wrapper may do, changes no gradient.
    """
    if world.size == 1 or not values.requires_grad:
        return values
    averaged: Tensor = _Averaged.apply(values, world)  # type: ignore[no-untyped-call]
    return averaged


def notice_backward(notice: Callable[[], None], *rows: Tensor) -> list[Tensor]:
    """`rows`; `notice` is called in the backward pass once the gradient of all of them is there."""
    pulled = [i for i, each in enumerate(rows) if each.requires_grad]
    found = list(rows)
    if pulled and torch.is_grad_enabled():
        for i, each in zip(pulled, _Noticed.apply(notice, *(rows[i] for i in pulled)), strict=True):  # type: ignore[no-untyped-call]
            found[i] = each
    return found
