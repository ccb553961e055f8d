"""Where the maxima over words come from, as machine code for the CPU at hand, by numba: the same choices as
torch's.

Imported where numba can be; `words` asks torch's `embedding_bag` else, which looks at one value at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from swamp_dist.compiled import CompiledFunctions

_functions = CompiledFunctions(globals(), "compiled code for words")


def largest_places(rows: Tensor, ids: Tensor) -> Tensor:
    """(b, S) int64: for each column, the row among rows[ids[:, w]] with the largest value, the earliest w
    among equals.

    Args:
        rows: (n, S) float32 on the CPU, contiguous. A nan is larger than nothing, and in the first place
            nothing is larger.
        ids: (b, W) int64, W at least 1.

    Raises:
        IndexError: there is no such row.
    """
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < len(rows):
        raise IndexError(f"rows {int(ids.min())} to {int(ids.max())} of {len(rows)}")
    chosen = torch.empty(len(ids), rows.shape[1], dtype=torch.int64)
    _functions.call("_choose", rows.detach().numpy(), ids.contiguous().numpy(), chosen.numpy())
    return chosen


@_functions.compiled()
def _raise_to(row, number, largest, places):  # type: ignore[no-untyped-def]
    """Both are chosen without a branch, which is compiled to vectors."""
    for s in range(largest.shape[0]):
        is_larger = row[s] > largest[s]
        largest[s] = row[s] if is_larger else largest[s]
        places[s] = number if is_larger else places[s]


@_functions.compiled()
def _choose(rows, ids, chosen):  # type: ignore[no-untyped-def]
    width = chosen.shape[1]
    largest, places = np.empty(width, np.float32), np.empty(width, np.int32)
    for caption in range(ids.shape[0]):
        first = ids[caption, 0]
        for s in range(width):
            largest[s], places[s] = rows[first, s], np.int32(first)
        for w in range(1, ids.shape[1]):
            number = ids[caption, w]
            _raise_to(rows[number], np.int32(number), largest, places)
        for s in range(width):
            chosen[caption, s] = places[s]
