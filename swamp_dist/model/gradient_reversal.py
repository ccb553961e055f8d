"""Gradient reversal (Ganin and Lempitsky 2015, section 3.1): identity, with -strength * gradient backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse_gradient(rows: Tensor, strength: float) -> Tensor:
    """`rows` of any shape, whose gradient arrives as -strength times itself."""
    reversed_rows: Tensor = _Reversal.apply(rows, strength)  # type: ignore[no-untyped-call]
    return reversed_rows
