"""Tensors as rings: the g-th row that was written lies in slot g mod their length."""

from __future__ import annotations

import torch
from torch import Tensor


def write_ring(ring: Tensor, rows: Tensor, written: int) -> None:
    """Write `rows`, at most all, over the oldest of a ring that saw `written` rows before."""
    first = written % len(ring)
    before_wrap = min(len(rows), len(ring) - first)
    ring[first : first + before_wrap] = rows[:before_wrap]
    ring[: len(rows) - before_wrap] = rows[before_wrap:]


def in_order(ring: Tensor, valid: int, written: int, part: slice) -> Tensor:
    """The rows `part` of the `valid` ones of a ring, counted from the oldest, as a copy."""
    oldest = written if valid == len(ring) else 0
    places = torch.arange(*part.indices(valid), device=ring.device)
    return ring[(oldest + places) % len(ring)]
