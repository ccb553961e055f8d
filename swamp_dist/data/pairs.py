"""Makes the pairs of a batch of entries: items as they stand, or clips cut from whole videos."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import numpy as np
import torch

from swamp_dist.compiled import has_numba
from swamp_dist.config import ClipSettings, DataSettings
from swamp_dist.data import clips as plain_clips
from swamp_dist.data.clips import caption_choice, count_tokens, row_bounds
from swamp_dist.data.entry import Entry
from swamp_dist.data.field_inputs import NO_TOKENIZERS, FieldInputs, Tokenizers, field_inputs
from swamp_dist.data.inputs import check_clips, word_field
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.pair_inputs import Pairs, drawn_inputs
from swamp_dist.data.partner_pairs import open_partners
from swamp_dist.data.reader import EntryReader
from swamp_dist.data.words import WordTable, open_words

_NUMBA = "swamp_dist.data.clips_numba"


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

    def close(self) -> None:
        """Give back what it has opened itself."""


def pair_maker(
    manifest: Manifest, data: DataSettings, seed: int, tokenizers: Tokenizers = NO_TOKENIZERS
) -> PairMaker:
    """What makes pairs of fields `data.a` and `data.b`: with `data.clips`, of clips cut from whole videos;
    with `data.partners`, of entries of two splits.

    Raises:
        UserError: the set has no such fields or split.
    """
    if data.clips is None:
        both = zip((data.a, data.b), tokenizers, strict=True)
        side_a, side_b = (field_inputs(manifest, field, data.images, each) for field, each in both)
        if data.partners is not None:
            return open_partners(manifest, data, (side_a, side_b), seed)
        return ItemPairs(side_a, side_b, seed)
    words = open_words(manifest)
    check_clips(manifest, data.a, data.b, data.clips)
    assert words is not None
    is_compiled = has_numba(_NUMBA, "clips are cut by numpy, at about two thirds of the speed")
    maker = ClipPairs(word_field(data.a, data.b, data.clips), data.clips, seed, words, is_compiled)
    if maker.is_compiled:  # here, and not in each of the loader processes that are forked later
        text, part = (manifest.field(name) for name in (maker.text, next(iter(data.clips.parts))))
        importlib.import_module(_NUMBA).compile_now(np.dtype(text.dtype), np.dtype(part.dtype))
    return maker


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
        a, b = drawn_inputs([self.a, self.b], reader, indices, self.seed, epoch, pairs)
        return Pairs(np.zeros(len(indices) * pairs, dtype=np.int64), a, b)

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class ClipPairs:
    """Pairs of grown captions and features pooled over the time that they span."""

    text: str
    clips: ClipSettings
    seed: int
    words: WordTable
    is_compiled: bool = False
    """Clips are cut by `clips_numba`, with the same bits; `pair_maker` finds whether they can be."""

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

    def close(self) -> None:
        """Nothing is open."""

    def _video(
        self, entry: Entry, reader: EntryReader, epoch: int, pooled: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(pairs,) captions that one video's pairs begin with, and their word ids (pairs, W); fills `pooled`
        (pairs, widths) with their features."""
        ids, first, program = entry.arrays[self.text], 0, self._program
        drawn = caption_choice(self.seed, epoch, entry.key, len(ids), len(pooled), self.clips.replace)
        times, tokens = self._times(entry, len(ids), reader), self._tokens(entry, len(ids), reader)
        least = self.clips.min_seconds, self.clips.min_words
        cut = program.cut_clips(ids, times, tokens, drawn, *least)
        for part, rate in self.clips.parts.items():
            rows = entry.arrays[part]
            program.pool_pairs(rows, row_bounds(cut.seconds, rate), cut.place, pooled, first)
            first += rows.shape[1]
        return drawn, cut.words

    @property
    def _program(self) -> ModuleType:
        return importlib.import_module(_NUMBA) if self.is_compiled else plain_clips

    def _times(self, entry: Entry, count: int, reader: EntryReader) -> np.ndarray:
        """(count, 2) float64 start and end of every caption."""
        times = entry.arrays[self.clips.times]
        if len(times) != count or not (times >= 0).all():
            raise reader.misfit(
                entry.index,
                f"field {self.clips.times!r}: expected a start and an end, at least 0, for each of {count} "
                f"captions, found {times.shape}, smallest {times.min()}",
            )
        return times.astype(np.float64, order="C")

    def _tokens(self, entry: Entry, count: int, reader: EntryReader) -> np.ndarray:
        """(count,) tokens of every caption; the original captions are only looked at where `min_words` asks
        for them."""
        if self.clips.min_words == 0:
            return np.zeros(count, dtype=np.int64)
        captions = entry.text.get("captions", "").split("\n")
        if len(captions) != count:
            raise reader.misfit(
                entry.index,
                f"data.clips.min_words counts the words of `captions` in entry.json: expected {count} lines, "
                f"found {len(captions)}",
            )
        return np.array([count_tokens(caption) for caption in captions], dtype=np.int64)
