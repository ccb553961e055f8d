"""What the loss gives for a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from swamp_dist.distributed import joined, mean_over_ranks
from swamp_dist.objective.objective import Objective
from swamp_dist.records import LossTerms


class LossAndFigures(NamedTuple):
    """What `SwampLoss` gives for a batch."""

    loss: Tensor
    """0-d with gradient: of this rank's pairs. Its mean over ranks is the loss of the global batch."""
    figures: dict[str, Tensor]
    """0-d without gradient, by metric tag (`loss/total`, `loss/contrastive`, `swamp/target_entropy`, ...): of
    this rank; `SwampLoss.mean_figures` makes means over ranks of them."""


def figures_of(terms: LossTerms, objective: Objective) -> dict[str, Tensor]:
    """All that a stage would log of a step; the ratio of gradients as it was measured last."""
    losses = {"total": terms.total, **terms.terms}
    found = {f"loss/{name}": value.detach() for name, value in losses.items()} | dict(terms.diagnostics)
    ratio = objective.effective_ratio
    return found if ratio is None else found | {"swamp/effective_ratio": ratio}


def mean_figures(figures: Mapping[str, Tensor]) -> dict[str, float]:
    """Means over ranks. All ranks call it, with figures of the same step; one all-reduce."""
    if not figures:
        return {}
    names = sorted(figures)
    values = torch.stack([figures[name].detach().double() for name in names])
    return dict(zip(names, mean_over_ranks(values, joined(values.device)).tolist(), strict=True))
