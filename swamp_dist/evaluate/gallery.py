"""The items that queries are ranked over, and which of them are relevant to a query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from swamp_dist.evaluate.scores import row_norms


@dataclass(frozen=True)
class Grouped:
    """m items by group."""

    order: Tensor
    """(m,) int64: items by group number."""
    groups: Tensor
    """(m,) int64: the group numbers in that order."""


@dataclass(frozen=True)
class Gallery(Grouped):
    """m items of embedding size D."""

    rows: Tensor
    """(m, D)"""
    norms: Tensor
    """(m,) float64 norms of the rows."""


class RelevantPairs(NamedTuple):
    """Every (query, item) of one group, by query."""

    query: Tensor
    """(p,) int64"""
    item: Tensor
    """(p,) int64"""
    counts: Tensor
    """(t,) int64: relevant items of each query."""
    nth: Tensor
    """(p,) int64: 0, 1, ... within a query."""


def open_gallery(rows: Tensor, groups: Tensor) -> Gallery:
    """A gallery of rows (m, D) whose items carry the group numbers (m,) int64."""
    grouped = group_items(groups)
    return Gallery(grouped.order, grouped.groups, rows, row_norms(rows))


def group_items(groups: Tensor) -> Grouped:
    """Items that carry the group numbers (m,) int64."""
    ordered = groups.sort(stable=True)
    return Grouped(ordered.indices, ordered.values)


def relevant_pairs(groups: Tensor, gallery: Grouped) -> RelevantPairs:
    """The relevant items of queries with these group numbers (t,)."""
    groups = groups.contiguous()
    first = torch.searchsorted(gallery.groups, groups)
    counts = torch.searchsorted(gallery.groups, groups, right=True) - first
    query = torch.arange(len(groups), device=groups.device).repeat_interleave(counts)
    nth = torch.arange(len(query), device=groups.device) - (counts.cumsum(0) - counts)[query]
    return RelevantPairs(query, gallery.order[first[query] + nth], counts, nth)
