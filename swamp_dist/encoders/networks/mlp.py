"""Fully connected encoder of one vector (paper, Appendix E)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Mlp(nn.Module):
    """Linear + ReLU (+ dropout) layers and a last Linear: (B, input_dim) -> (B, embedding_dim).

    Weights start as torch's Linear does.
    """

    def __init__(
        self,
        input_dim: int,
        hidden: Sequence[int],
        embedding_dim: int,
        dropout: float = 0.0,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.LayerNorm(input_dim)] if layer_norm else []
        width = input_dim
        for next_width in hidden:
            layers += [nn.Linear(width, next_width), nn.ReLU()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            width = next_width
        layers.append(nn.Linear(width, embedding_dim))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, input_dim) -> (B, embedding_dim), not yet of unit length."""
        out: Tensor = self.layers(x)
        return out
