"""Pairs that are drawn by class: an anchor and an entry of another split, read by a reader of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from swamp_dist.config import DataSettings
from swamp_dist.data.field_inputs import Draw, FieldInputs
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.pair_inputs import Pairs, drawn_inputs
from swamp_dist.data.partner_checks import name_vectors
from swamp_dist.data.partner_draws import ClassEntries, NearClasses, draw_words, other_classes, remainder
from swamp_dist.data.reader import EntryReader, open_reader
from swamp_dist.errors import UserError
from swamp_dist.records import Inputs

DrawClasses = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Classes of anchors and random words -> classes of their negatives, (n,) each."""


@dataclass(frozen=True)
class PartnerPairs:
    """An anchor's field a, and field b of entries of the partner split."""

    a: FieldInputs
    b: FieldInputs
    seed: int
    partners: EntryReader
    by_class: ClassEntries
    """Entries of the partner split."""
    draw_classes: DrawClasses | None
    """None: no negatives."""

    @property
    def fields(self) -> tuple[str, ...]:
        """That of the anchors."""
        return (self.a.field,)

    def make(self, reader: EntryReader, indices: np.ndarray, epoch: int, pairs: int) -> Pairs:
        """As `PairMaker.make`."""
        (a,) = drawn_inputs([self.a], reader, indices, self.seed, epoch, pairs)
        keys, labels = reader.split.keys(indices), np.repeat(reader.split.labels[indices], pairs)
        words = draw_words(self.seed, epoch, keys, pairs)
        draws: list[Draw] = [(self.seed, epoch, key, pair) for key in keys for pair in range(pairs)]
        items = np.zeros(len(labels), dtype=np.int64)
        b = self._read(self.by_class.draw(labels, words.partner), words.partner_item, draws)
        if self.draw_classes is None:
            return Pairs(items, a, b)
        classes = self.draw_classes(labels, words.negative_class)
        negatives = self._read(self.by_class.draw(classes, words.negative), words.negative_item, draws)
        return Pairs(items, a, b, negatives, classes)

    def _read(self, entries: np.ndarray, item_words: np.ndarray, draws: list[Draw]) -> Inputs:
        """Field b of entries of the partner split, of several items in one the drawn one."""
        column = self.partners.columns(entries)[self.b.field]
        rows = column.first + remainder(item_words, column.count)

        def blame(row: int, finding: str, damaged: bool) -> UserError:
            return self.partners.misfit(int(entries[row]), finding, damaged)

        keyed = None
        if self.b.kind == "image":
            keys = self.partners.split.keys(entries)
            keyed = [(*draw, key) for draw, key in zip(draws, keys, strict=True)]
        return self.b.make(column.rows[rows], blame, keyed)

    def close(self) -> None:
        """Close the partner split."""
        self.partners.close()


def open_partners(
    manifest: Manifest, data: DataSettings, sides: tuple[FieldInputs, FieldInputs], seed: int
) -> PartnerPairs:
    """What makes pairs of the training split and `data.partners`, whose split is opened here.

    Raises:
        UserError: there is no such split or field.
        ShardError: with `data.cache = memory`, as `EntryReader.read`.
    """
    asked = data.partners
    assert asked is not None, "the caller has asked"
    reader = open_reader(manifest, asked.split, [sides[1].field], "seek", data.cache)
    by_class = ClassEntries(reader.split.labels)
    present = by_class.classes
    draw_classes: DrawClasses | None = None
    if asked.negatives == "uniform":
        draw_classes = partial(other_classes, present)
    elif asked.negatives == "near":
        draw_classes = NearClasses(name_vectors(manifest, data), present, asked.negative_temperature).draw
    return PartnerPairs(*sides, seed, reader, by_class, draw_classes)
