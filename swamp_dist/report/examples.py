"""Retrieval examples of a run: queries, what they find, and how both are shown. Reads data and weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from swamp_dist.config import EvaluateSettings, ImageSettings
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.distributed import alone
from swamp_dist.errors import UserError
from swamp_dist.evaluate.readers import open_readers
from swamp_dist.evaluate.scored import Scored, encoders_for, score_split
from swamp_dist.inference import TrainedModel
from swamp_dist.model.cross_attention import pair_score
from swamp_dist.prototypes.shown import Kind, item_kind
from swamp_dist.prototypes.texts import SplitTexts, read_texts, told_of
from swamp_dist.prototypes.thumbnails import encode_thumbnail, read_pictures
from swamp_dist.report.ranked import Chosen, Ranked, choose

MOST_PAIRS = 250_000_000
"""Scores that are held at once, 4 bytes each."""


@dataclass(frozen=True)
class ShownSide:
    """The items of one modality and how they are shown."""

    name: str
    """Of the field."""
    kind: Kind
    place: int
    """0 of a, 1 of b."""
    keys: Sequence[str]
    """Of the entries of its split."""
    texts: SplitTexts
    entry: Sequence[int]
    """Of every item its entry."""
    uris: Mapping[int, str] = field(default_factory=dict)
    """Thumbnails by entry, of the items that are shown."""

    def told(self, item: int) -> str:
        """What is said of an item: its text, one beside it, or its key."""
        return told_of(self.texts, self.keys, self.place, item, self.entry[item])

    def key(self, item: int) -> str:
        """Key of its entry."""
        return self.keys[self.entry[item]]


@dataclass(frozen=True)
class Direction:
    """One direction of retrieval."""

    queries: ShownSide
    gallery: ShownSide
    relevance: str
    chosen: Chosen


@dataclass(frozen=True)
class Examples:
    """The examples of a run."""

    run: str
    """Key of the run."""
    split: str
    directions: tuple[Direction, ...]


def find_examples(run: str, model: TrainedModel, settings: EvaluateSettings, count: int) -> Examples:
    """The best, the worst and random queries of an evaluation, ranked as the evaluation ranks them.

    Args:
        run: its key, for the heading.
        model: its model.
        settings: the evaluation; blocks of entries (`folds`) are not made.
        count: queries of each kind and direction.

    Raises:
        UserError: no such split, a set that the model does not fit, or more pairs than are held at once.
    """
    manifest = model.open_shards()
    scored = score_items(model, manifest, settings)
    sides = sides_of(manifest, settings, model.fields, scored)
    relevance = "pair" if "pair" in settings.relevance and settings.gallery is None else "class"
    groups = [side.entry if relevance == "pair" else side.label for side in (scored.a, scored.b)]
    ways = []
    for query, gallery in ((0, 1), (1, 0)):
        scores = scored.scores if query == 0 else scored.scores.t()
        side = sides[query]
        names = [side.key(item) for item in range(len(side.entry))]
        ways.append((query, gallery, choose(scores, groups[query], groups[gallery], count, names)))
    shown = with_thumbnails(model, manifest, settings, sides, ways)
    told = settings.split if settings.gallery is None else f"{settings.split} with gallery {settings.gallery}"
    found = tuple(
        Direction(shown[query], shown[gallery], relevance, chosen) for query, gallery, chosen in ways
    )
    return Examples(run, told, found)


Ways = Sequence[tuple[int, int, Chosen]]
"""Place of the queries, place of the gallery, and what is shown of that direction."""


def with_thumbnails(
    model: TrainedModel,
    manifest: Manifest,
    settings: EvaluateSettings,
    sides: Sequence[ShownSide],
    ways: Ways,
) -> list[ShownSide]:
    """Both sides with the thumbnails of the items that any direction shows."""
    wanted: tuple[set[int], set[int]] = (set(), set())
    for query, gallery, chosen in ways:
        for each in (*chosen.best, *chosen.worst, *chosen.drawn):
            wanted[query].add(sides[query].entry[each.query])
            wanted[gallery].update(sides[gallery].entry[hit.item] for hit in each.top)
    splits, images = (settings.split, settings.gallery or settings.split), model.settings.data.images
    return [
        _with_pictures(side, manifest, split, entries, images)
        for side, split, entries in zip(sides, splits, wanted, strict=True)
    ]


def all_ranked(chosen: Chosen) -> Iterator[tuple[str, Sequence[Ranked]]]:
    """The kinds of queries with their headings."""
    yield "best", chosen.best
    yield "worst", chosen.worst
    yield "random", chosen.drawn


def score_items(model: TrainedModel, manifest: Manifest, settings: EvaluateSettings) -> Scored:
    """The scores of all pairs of an evaluation, as it computes them.

    Raises:
        UserError: more pairs than are held at once, or no such split.
    """
    counts = [len(manifest.split(name)) for name in (settings.split, settings.gallery or settings.split)]
    if counts[0] * counts[1] > MOST_PAIRS:
        raise UserError(
            f"split {settings.split!r}: {counts[0]:,} x {counts[1]:,} pairs of entries are more than the "
            f"{MOST_PAIRS:,} scores that examples hold at once.\nFix: name a smaller split with --split"
        )
    encoders = (lambda rows: model.encoders(rows, None)), (lambda rows: model.encoders(None, rows))
    with open_readers(manifest, settings, model.settings.data) as readers, torch.no_grad():
        return score_split(
            encoders_for(encoders, model.settings.model, settings), pair_score(model.settings.model),
            manifest, settings, alone(model.device), readers, model.inputs(manifest),
        )  # fmt: skip


def sides_of(
    manifest: Manifest, settings: EvaluateSettings, fields: tuple[str, str], scored: Scored
) -> list[ShownSide]:
    """Both modalities of an evaluation, without thumbnails."""
    splits = settings.split, settings.gallery or settings.split
    read = {name: read_texts(manifest, name, fields) for name in dict.fromkeys(splits)}
    made = []
    for place, (name, split, side) in enumerate(zip(fields, splits, (scored.a, scored.b), strict=True)):
        texts, index = read[split], manifest.split(split)
        kind = item_kind(manifest, name, texts.items[place] is not None)
        keys = index.keys(range(len(index)))
        made.append(ShownSide(name, kind, place, keys, texts, side.entry.tolist()))
    return made


def _with_pictures(
    side: ShownSide, manifest: Manifest, split: str, entries: set[int], images: ImageSettings
) -> ShownSide:
    if side.kind != "image":
        return side
    with contextlib.closing(open_reader(manifest, split, [side.name])) as reader:
        small = read_pictures(reader, side.name, entries, images)
    return replace(side, uris={entry: encode_thumbnail(picture).uri for entry, picture in small.items()})
