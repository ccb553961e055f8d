"""Targets of rows under the potentials that a solve found.

Shape letters: M problems (the two modalities), n rows, K prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swamp_dist.objective.solve.masses import LOG2_E, compiled_passes, row_blocks

_LOWEST = -100.0
"""Of the compiled code, in base 2: a target is at least 2^-100 of the largest of its row, never denormal."""


def assign(
    scores: Tensor,
    log_v: Tensor,
    epsilon: float,
    out: Tensor | None = None,
    *,
    is_compiled: bool = False,
) -> Tensor:
    """Targets q (M, n, K) of rows with `scores` (M, n, K) under potentials (M, K), without gradient.

    Exponents of a block of rows at a time: on a CPU a fresh matrix of them costs more than all the rest. So
    does a fresh q, where that of all rows is asked for: `out` (M, n, K) is memory for it. `is_compiled` as in
    `solve`.
    """
    q = torch.empty(scores.shape, dtype=scores.dtype, device=scores.device) if out is None else out
    with torch.no_grad():
        if is_compiled and scores.dtype == torch.float32 and scores.device.type == "cpu":
            compiled_passes().plan(scores, log_v * LOG2_E, LOG2_E / epsilon, _LOWEST, q)
            return q
        for side, rows, of_q, _ in row_blocks(scores, q):
            exponents = torch.add(log_v[side], rows, alpha=1 / epsilon)
            torch.softmax(exponents, dim=1, out=of_q)
    return q
