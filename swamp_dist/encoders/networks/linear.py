"""A linear layer over vectors or over the elements of sets."""

from __future__ import annotations

from typing import overload

from torch import Tensor, nn
from torch.nn import functional

from swamp_dist.records import Sets


class Linear(nn.Module):
    """W x + b of a vector, or of every element of a set; started as SCAN and VSE++ do: W uniform in
    +-sqrt(6 / (in + out)) (Glorot and Bengio 2010), b = 0."""

    def __init__(self, input_dim: int, output_dim: int, unit: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(input_dim, output_dim)
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)
        self.unit = unit

    @overload
    def forward(self, x: Tensor) -> Tensor: ...

    @overload
    def forward(self, x: Sets) -> Sets: ...

    def forward(self, x: Tensor | Sets) -> Tensor | Sets:
        """(b, input_dim) -> (b, output_dim); sets -> sets, whose elements have unit length if `unit`."""
        rows: Tensor = self.fc(x.values if isinstance(x, Sets) else x)
        if not isinstance(x, Sets):
            return rows
        return Sets(functional.normalize(rows, dim=-1) if self.unit else rows, x.mask)
