"""Makes the pairs of a batch of entries: items as they stand, or clips cut from whole videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from swamp_dist.config import ClipSettings, ImageSettings
from swamp_dist.data.clips import (
    Clip,
    caption_choice,
    clip_words,
    count_tokens,
    grow,
    pool_max,
    row_bounds,
)
from swamp_dist.data.column import Column
from swamp_dist.data.entry import Entry
from swamp_dist.data.field_inputs import NO_TOKENIZERS, Draw, FieldInputs, Tokenizers, field_inputs
from swamp_dist.data.inputs import check_clips, word_field
from swamp_dist.data.lanes import item_choice
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.reader import EntryReader
from swamp_dist.data.words import WordTable, open_words
from swamp_dist.records import Inputs


class Pairs(NamedTuple):
    """The pairs of some entries, (entries * pairs, ...) each, entry after entry."""

    items: np.ndarray
    """int64: which item of its entry a pair was drawn as: its caption where clips are cut, else 0."""
    a: Inputs
    b: Inputs


class PairMaker(Protocol):
    """Inputs of both modalities for the pairs of some entries; loader processes hold a copy."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields that it reads."""

    def make(self, reader: EntryReader, indices: np.ndarray, epoch: int, pairs: int) -> Pairs:
        """Both modalities of `pairs` pairs of every entry.

        Raises:
            ShardError: an entry is damaged.
        """


def pair_maker(
    manifest: Manifest,
    a: str,
    b: str,
    seed: int,
    clips: ClipSettings | None,
    images: ImageSettings | None = None,
    tokenizers: Tokenizers = NO_TOKENIZERS,
) -> PairMaker:
    """What makes pairs of fields `a` and `b`; with `clips`, of clips cut from whole videos.

    Raises:
        UserError: the set has no such fields.
    """
    if clips is None:
        both = zip((a, b), tokenizers, strict=True)
        inputs_a, inputs_b = (field_inputs(manifest, field, images, each) for field, each in both)
        return ItemPairs(inputs_a, inputs_b, seed)
    words = open_words(manifest)
    check_clips(manifest, a, b, clips)
    assert words is not None
    return ClipPairs(word_field(a, b, clips), clips, seed, words)


@dataclass(frozen=True)
class ItemPairs:
    """Items of two fields; of several items in an entry, `pairs` are drawn."""

    a: FieldInputs
    b: FieldInputs
    seed: int

    @property
    def fields(self) -> tuple[str, ...]:
        """Both."""
        return self.a.field, self.b.field

    def make(self, reader: EntryReader, indices: np.ndarray, epoch: int, pairs: int) -> Pairs:
        """As `PairMaker.make`."""
        columns = reader.columns(indices)
        a, b = (self._side(columns, side, reader, indices, epoch, pairs) for side in (self.a, self.b))
        return Pairs(np.zeros(len(indices) * pairs, dtype=np.int64), a, b)

    def _side(
        self,
        columns: Mapping[str, Column],
        side: FieldInputs,
        reader: EntryReader,
        indices: np.ndarray,
        epoch: int,
        pairs: int,
    ) -> Inputs:
        column = columns[side.field]
        rows = np.repeat(column.first, pairs)
        several = np.flatnonzero(column.count > 1)
        if len(several):
            chosen = rows.reshape(-1, pairs)
            for i, key in zip(several, reader.split.keys(indices[several]), strict=True):
                chosen[i] += item_choice(self.seed, epoch, key, int(column.count[i]), pairs)
        return side.make(
            column.rows[rows],
            lambda row, finding, damaged: reader.misfit(int(indices[row // pairs]), finding, damaged),
            self._draws(reader, indices, epoch, pairs) if side.kind == "image" else None,
        )

    def _draws(self, reader: EntryReader, indices: np.ndarray, epoch: int, pairs: int) -> Sequence[Draw]:
        """What the random changes of every row depend on: seed, epoch, key and which pair of its entry."""
        keys = reader.split.keys(indices)
        return [(self.seed, epoch, key, pair) for key in keys for pair in range(pairs)]


@dataclass(frozen=True)
class ClipPairs:
    """Pairs of grown captions and features pooled over the time that they span."""

    text: str
    clips: ClipSettings
    seed: int
    words: WordTable

    @property
    def fields(self) -> tuple[str, ...]:
        """Captions, times and every part of the features."""
        return self.text, self.clips.times, *self.clips.parts

    def make(self, reader: EntryReader, indices: np.ndarray, epoch: int, pairs: int) -> Pairs:
        """As `PairMaker.make`: `Words` and (entries * pairs, widths of all parts) raw maxima."""
        specs = [reader.specs[part] for part in self.clips.parts]
        width = sum(spec.shape[0] for spec in specs)
        pooled = np.empty((len(indices), pairs, width), dtype=specs[0].dtype)  # written once, in place
        made = [
            self._video(entry, reader, epoch, rows)
            for entry, rows in zip(reader.each(indices), pooled, strict=True)
        ]
        drawn, ids = (np.concatenate(x) for x in zip(*made, strict=True))
        words, features = self.words.batch(ids), torch.from_numpy(pooled.reshape(-1, width))
        return Pairs(drawn, *((words, features) if self.clips.on == "b" else (features, words)))

    def _video(
        self, entry: Entry, reader: EntryReader, epoch: int, pooled: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(pairs,) captions that one video's pairs begin with, and their word ids (pairs, W); fills `pooled`
        (pairs, widths) with their features."""
        ids, first = entry.arrays[self.text], 0
        drawn = caption_choice(self.seed, epoch, entry.key, len(ids), len(pooled), self.clips.replace)
        distinct, place = np.unique(drawn, return_inverse=True)  # with replacement some come twice
        grown = self._grown(entry, distinct, reader)
        for part, rate in self.clips.parts.items():
            rows = pool_max(entry.arrays[part], row_bounds(grown, rate))
            pooled[:, first : first + rows.shape[1]] = rows[place]
            first += rows.shape[1]
        return drawn, clip_words(ids, grown)[place]

    def _grown(self, entry: Entry, captions: np.ndarray, reader: EntryReader) -> list[Clip]:
        times, count = entry.arrays[self.clips.times], len(entry.arrays[self.text])
        if len(times) != count or not (times >= 0).all():
            raise reader.misfit(
                entry.index,
                f"field {self.clips.times!r}: expected a start and an end, at least 0, for each of {count} "
                f"captions, found {times.shape}, smallest {times.min()}",
            )
        seconds, tokens = times.astype(np.float64).tolist(), self._tokens(entry, count, reader)
        least = self.clips.min_seconds, self.clips.min_words
        return [grow(seconds, tokens, i, *least) for i in captions.tolist()]

    def _tokens(self, entry: Entry, count: int, reader: EntryReader) -> list[int]:
        """Tokens of every caption; the original captions are only looked at where `min_words` asks for
        them."""
        if self.clips.min_words == 0:
            return [0] * count
        captions = entry.text.get("captions", "").split("\n")
        if len(captions) != count:
            raise reader.misfit(
                entry.index,
                f"data.clips.min_words counts the words of `captions` in entry.json: expected {count} lines, "
                f"found {len(captions)}",
            )
        return [count_tokens(caption) for caption in captions]
