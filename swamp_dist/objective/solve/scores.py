"""The rows of a solve: the product that scores them, scores that are made anew for every pass, and weights.

Shape letters: M problems solved together (the two modalities), n rows here, m of them in a block, D embedding
size, K prototypes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ScorePrecision = Literal["float32", "bfloat16"]
"""What the operands of the score product are rounded to. Sums and scores have the prototypes' own
precision."""


def operand(rows: Tensor, precision: ScorePrecision) -> Tensor:
    """`rows` as the score product takes them."""
    return rows.bfloat16() if precision == "bfloat16" else rows


def score_product(rows: Tensor, prototypes: Tensor, out: Tensor) -> None:
    """Scores (n, K) of rows (n, D) with prototypes (K, D) in `out`, float32 or wider.

    Prototypes in bfloat16 (`operand`) ask for a product of bfloat16 operands that is summed and written in
    float32. Rounding to 8 bits changes an entry by at most 2^-8 of it, hence a cosine by at most 2^-7
    (Cauchy-Schwarz, both operands) and an exponent of the solve by 2^-7 / epsilon: 0.16 at 0.05. Rounding
    errors of D entries mostly cancel: a typical score of D = 4,096 is off by 4e-5. Only a GPU has an
    instruction for it; a CPU multiplies the rounded operands in float32, which is as exact.
    """
    if prototypes.dtype != torch.bfloat16:
        torch.mm(rows, prototypes.t(), out=out)
    elif rows.is_cuda and out.dtype == torch.float32:
        torch.mm(rows.bfloat16(), prototypes.t(), out_dtype=torch.float32, out=out)
    else:
        torch.mm(rows.bfloat16().to(out.dtype), prototypes.t().to(out.dtype), out=out)


@dataclass(frozen=True)
class StreamedScores:
    """Scores (M, n, K) that are never held at once: products of rows and prototypes, block by block."""

    sides: Sequence[Tensor]
    """M tensors (n, D), in the prototypes' precision or as the product takes them."""
    prototypes: Tensor
    """(K, D)"""
    memory: Tensor
    """(M, m, K), overwritten: m rows are a block."""
    precision: ScorePrecision = "float32"
    own: tuple[int, float] | None = None
    """Column that row 0 must not take, row i's being i columns further, and the score it gets instead; None
    where every row may take every column."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, n, K) of all scores."""
        return len(self.sides), len(self.sides[0]), len(self.prototypes)

    def blocks(self) -> Iterator[Tensor]:
        """Scores (M, at most m, K) of the rows in turn, each valid until the next."""
        _, num_rows, _ = self.shape
        prototypes = operand(self.prototypes, self.precision)
        for first in range(0, num_rows, self.memory.shape[1]):
            block = self.memory[:, : num_rows - first]
            for side, out in zip(self.sides, block, strict=True):
                score_product(side[first : first + block.shape[1]], prototypes, out)
            if self.own is not None:
                column, score = self.own
                block.diagonal(column + first, dim1=1, dim2=2).fill_(score)
            yield block


@dataclass(frozen=True)
class RowWeights:
    """Weights of the rows of a solve, the same for both modalities: m_k = sum_i w_i q_ik."""

    mine: Tensor
    """(n,) of the rows here, 1 where a row counts and 0 where not, in the precision of the scores."""
    total: Tensor
    """0-d float64: N, the rows that count on all ranks; the same on each."""
