"""Figures over consecutive blocks of a split's entries, such as the 1K protocol of MS-COCO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from swamp_dist.config import FoldSettings
from swamp_dist.records import EvaluationResult, RetrievalMetrics


def entry_folds(keys: Sequence[str], folds: FoldSettings) -> Tensor:
    """(n,) int64: the block of each entry, by the order of the keys; -1 beyond the last block."""
    order = torch.tensor(sorted(range(len(keys)), key=keys.__getitem__))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(keys))
    block = place // folds.entries
    return block.masked_fill(block >= folds.count, -1)


def blocks_of(block: Tensor, entry: Tensor, count: int) -> Iterator[Tensor]:
    """Of every block the positions of its items, whose entries (m,) are given."""
    of_items = block.to(entry.device)[entry]
    for number in range(count):
        yield (of_items == number).nonzero().squeeze(1)


def mean_result(results: Sequence[EvaluationResult]) -> EvaluationResult:
    """One result whose figures are the means over those of all blocks."""
    first = results[0]
    metrics = {key: _mean([each.metrics[key] for each in results]) for key in first.metrics}
    by_chance = {key: _mean([each.chance[key] for each in results]) for key in first.chance}
    return replace(first, metrics=metrics, chance=by_chance)


def _mean(metrics: Sequence[RetrievalMetrics]) -> RetrievalMetrics:
    def over(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    def by_cutoff(values: Sequence[Mapping[int, float]]) -> dict[int, float]:
        return {k: over([each[k] for each in values]) for k in values[0]}

    maps = [each.map for each in metrics if each.map is not None]
    return replace(
        metrics[0],
        r_at_1=over([each.r_at_1 for each in metrics]),
        r_at_5=over([each.r_at_5 for each in metrics]),
        r_at_10=over([each.r_at_10 for each in metrics]),
        median_rank=over([each.median_rank for each in metrics]),
        map=over(maps) if maps else None,
        precision_at=by_cutoff([each.precision_at for each in metrics]),
        map_at=by_cutoff([each.map_at for each in metrics]),
        map_at_hits=by_cutoff([each.map_at_hits for each in metrics]),
        hit_at=by_cutoff([each.hit_at for each in metrics]),
        folds=len(metrics),
    )
