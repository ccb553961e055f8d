"""Which program passes over the scores of a solve. A training keeps to one, for each rounds in its own way,
and its commits say which: a resumed run has the bits of one that never stopped.

    triton   a GPU, float32 (`masses_triton`)
    numba    a CPU, float32, where numba can be imported and the matrix is worth it (`masses_numba`)
    torch    all else, float64 among it (`masses`)
"""

from __future__ import annotations

import logging
from typing import Literal, get_args

import torch

from swamp_dist.compiled import has_numba, numba_fault

Passes = Literal["torch", "numba", "triton"]

logger = logging.getLogger(__name__)
WORTH = 2**18
"""Rows times prototypes of a rank from which on a CPU takes numba: below, calls are most of an iteration, and
loading numba takes longer than many solves."""
_NUMBA = "swamp_dist.objective.solve.masses_numba"
_CODES: tuple[Passes, ...] = get_args(Passes)


def choose_passes(rows: int, prototypes: int, device: torch.device, dtype: torch.dtype) -> Passes:
    """What a new training takes on this machine; `rows` are the most that a rank solves."""
    if dtype != torch.float32:
        return "torch"
    if device.type != "cpu":
        return "triton"
    if rows * prototypes < WORTH:
        return "torch"
    return "numba" if has_numba(_NUMBA, "the solve runs in plain torch, at about half the speed") else "torch"


def resume_passes(chosen: Passes, code: torch.Tensor | None) -> Passes:
    """What a training goes on with whose commit has `code`, and which would take `chosen` as a new one.

    A commit without one is of an earlier version, which knew no numba. Passes of another kind of device are
    not taken over.

    Raises:
        ValueError: no version that this one knows wrote such a code.
    """
    number = 0 if code is None else int(code)
    if not 0 <= number < len(_CODES):
        raise ValueError(f"passes of a solve number {number} are not known: 0 to {len(_CODES) - 1} are")
    saved = _CODES[number]
    if "triton" in (chosen, saved):
        return chosen
    if saved == "numba" and (fault := numba_fault(_NUMBA)):
        logger.warning(
            "the training began with the passes of numba, which %s: it goes on in plain torch, so losses may "
            "differ by rounding",
            fault,
        )
        return "torch"
    return saved


def passes_code(passes: Passes) -> torch.Tensor:
    """What a commit keeps: 0-d."""
    return torch.tensor(_CODES.index(passes))
