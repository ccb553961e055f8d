"""Inputs of several shard sets as those of one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from swamp_dist.records import Inputs, Sets, Tokens, Words


def join_rows(parts: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """(n, ...): row i of a part goes to places[part][i]; the places of all parts are 0 .. n-1."""
    joined = parts[0].new_empty((sum(len(part) for part in parts), *parts[0].shape[1:]))
    for part, where in zip(parts, places, strict=True):
        joined[where] = part
    return joined


def join_inputs(parts: Sequence[Inputs], places: Sequence[Tensor]) -> Inputs:
    """As `join_rows` of one modality. Words keep the vectors of each part, one after the other behind one row
    of zeros: each set has a table of its own, and a word that two of them hold stands twice. Tokens and
    sets are padded to the widest part."""
    tokens = [part for part in parts if isinstance(part, Tokens)]
    if tokens:
        return Tokens(*_join_padded(tokens, places))
    sets = [part for part in parts if isinstance(part, Sets)]
    if sets:
        return Sets(*_join_padded(sets, places))
    words = [part for part in parts if isinstance(part, Words)]
    if not words:
        return join_rows([part for part in parts if isinstance(part, Tensor)], places)
    ids, vectors, before = [], [words[0].vectors[:1]], 0
    for part in words:
        ids.append(torch.where(part.ids == 0, 0, part.ids + before))
        vectors.append(part.vectors[1:])
        before += len(part.vectors) - 1
    return Words(join_rows(ids, places), torch.cat(vectors))


def _join_padded(parts: Sequence[Tokens] | Sequence[Sets], places: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Values and mask of all parts, zeros behind those of narrower ones."""
    width = max(part.mask.shape[1] for part in parts)
    wide = [[_widen(side, width) for side in part] for part in parts]
    values, mask = (join_rows(column, places) for column in zip(*wide, strict=True))
    return values, mask


def _widen(x: Tensor, width: int) -> Tensor:
    """(n, W, ...) with zeros behind it up to `width` places."""
    return pad(x, (0, 0) * (x.dim() - 2) + (0, width - x.shape[1]))
