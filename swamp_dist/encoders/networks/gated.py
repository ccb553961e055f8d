"""Gated embedding unit on one pooled vector (Miech et al. 2019, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class GatedUnit(nn.Module):
    """y = h * sigmoid(W2 h + b2) with h = W1 x + b1: (B, input_dim) -> (B, embedding_dim).

    `unit_parts` are the widths of consecutive parts of x that are brought to unit length first, each by
    itself, as published for appearance and motion features; a part of zeros stays zeros.
    """

    def __init__(self, input_dim: int, embedding_dim: int, unit_parts: Sequence[int] | None = None) -> None:
        super().__init__()
        self._unit_parts = None if unit_parts is None else list(unit_parts)
        self.fc = nn.Linear(input_dim, embedding_dim)
        self.gate = nn.Linear(embedding_dim, embedding_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, input_dim) -> (B, embedding_dim), not yet of unit length."""
        if self._unit_parts is not None:
            x = unit_parts(x, self._unit_parts)
        h = self.fc(x)
        out: Tensor = h * torch.sigmoid(self.gate(h))
        return out


def unit_parts(x: Tensor, widths: list[int]) -> Tensor:
    """(B, sum of widths) with every part of a row at unit length, zeros where it is zeros."""
    parts = torch.split(x, widths, dim=1)
    if x.requires_grad:
        return torch.cat([functional.normalize(part, dim=1, eps=1e-12) for part in parts], dim=1)
    out = torch.empty_like(x)  # features need no gradient: each part is written once, where it belongs
    for part, place in zip(parts, torch.split(out, widths, dim=1), strict=True):
        torch.div(part, torch.linalg.vector_norm(part, dim=1, keepdim=True).clamp_min_(1e-12), out=place)
    return out
