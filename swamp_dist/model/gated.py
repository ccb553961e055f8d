"""Gated embedding unit on one pooled vector (Miech et al. 2019, section 4.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GatedUnit(nn.Module):
    """y = h * sigmoid(W2 h + b2) with h = W1 x + b1: (B, input_dim) -> (B, embedding_dim)."""

    def __init__(self, input_dim: int, embedding_dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(input_dim, embedding_dim)
        self.gate = nn.Linear(embedding_dim, embedding_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, input_dim) -> (B, embedding_dim), not yet of unit length."""
        h = self.fc(x)
        out: Tensor = h * torch.sigmoid(self.gate(h))
        return out
