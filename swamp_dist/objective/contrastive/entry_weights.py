"""Weights of pairs that come from one entry, such as two clips of a video."""

from __future__ import annotations

import torch
from torch import Tensor


def entry_weights(
    my_entries: Tensor,
    all_entries: Tensor,
    num_entries: int,
    in_entry_share: float,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Weights W_ij (b, B) that give pairs of the same entry the share h of the total; their mean is 1.

    With E entries in the global batch, W = E*h inside an entry's block and E*(1-h)/(E-1) across entries
    (Miech et al. 2019). Entries (b,), (B,) are positions in the global batch, never video ids.
    """
    inside = num_entries * in_entry_share
    across = num_entries * (1 - in_entry_share) / max(num_entries - 1, 1)
    same = my_entries[:, None] == all_entries[None, :]
    return torch.full(same.shape, across, dtype=dtype, device=same.device).masked_fill_(same, inside)
