"""The pairs of some entries, and one modality of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from swamp_dist.data.field_inputs import Draw, FieldInputs
from swamp_dist.data.lanes import item_choice
from swamp_dist.data.reader import EntryReader
from swamp_dist.errors import UserError
from swamp_dist.records import Inputs


class Pairs(NamedTuple):
    """The pairs of some entries, (entries * pairs, ...) each, entry after entry."""

    items: np.ndarray
    """int64: which item of its entry a pair was drawn as: its caption where clips are cut, else 0."""
    a: Inputs
    b: Inputs
    negatives: Inputs | None = None
    """Of modality B and of another class; None: none are drawn."""
    negative_labels: np.ndarray | None = None
    """int64: their classes."""


def drawn_inputs(
    sides: Sequence[FieldInputs], reader: EntryReader, indices: np.ndarray, seed: int, epoch: int, pairs: int
) -> list[Inputs]:
    """(entries * pairs, ...) inputs of each of these fields of the entries at `indices`, entry after entry;
    of several items in an entry, `pairs` are drawn.

    Raises:
        UserError: an entry is damaged (ShardError) or too large.
    """
    columns, made = reader.columns(indices), []
    for side in sides:
        column = columns[side.field]
        rows = np.repeat(column.first, pairs)
        several = np.flatnonzero(column.count > 1)
        if len(several):
            chosen = rows.reshape(-1, pairs)
            for i, key in zip(several, reader.split.keys(indices[several]), strict=True):
                chosen[i] += item_choice(seed, epoch, key, int(column.count[i]), pairs)

        def blame(row: int, finding: str, damaged: bool) -> UserError:
            return reader.misfit(int(indices[row // pairs]), finding, damaged)

        draws = _draws(reader, indices, seed, epoch, pairs) if side.kind == "image" else None
        made.append(side.make(column.rows[rows], blame, draws))
    return made


def _draws(reader: EntryReader, indices: np.ndarray, seed: int, epoch: int, pairs: int) -> Sequence[Draw]:
    """What the random changes of every row depend on: seed, epoch, key and which pair of its entry."""
    return [(seed, epoch, key, pair) for key in reader.split.keys(indices) for pair in range(pairs)]
