"""Drawings of things by several hands as a sketch set: classes are divided, and near twins stay together."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from swamp_dist.config import DrawnSettings
from swamp_dist.errors import UserError
from swamp_dist.records import RawSplit, Sample
from swamp_dist.sources import concepts, features
from swamp_dist.sources.class_splits import TEST, TRAIN, VALIDATION, ClassSplit
from swamp_dist.sources.openmoji import THUMBNAIL_TWINS
from swamp_dist.sources.sketch_sets import IMAGE, PHOTOS

log = logging.getLogger(__name__)

Hands: TypeAlias = Mapping[str, Mapping[str, Path | str]]
"""For each hand its drawings by code of the thing: SVG as text, or the file of one."""
_HELD_OUT_MOST = (TEST, VALIDATION, TRAIN)


@dataclass(frozen=True)
class Thing:
    """What is drawn."""

    code: str
    """Of letters, digits, `-` and `_`; the same for all hands."""
    name: str
    group: str
    """Name of its class."""
    twins: tuple[str, ...]
    """Things that share one of these texts are near twins."""


@dataclass(frozen=True)
class Drawing:
    """One hand's picture of a thing."""

    thing: Thing
    hand: str
    is_sketch: bool
    svg: Path | str

    @property
    def key(self) -> str:
        """Hand and thing."""
        return f"{self.hand}-{self.thing.code}"


def drawings_of(
    things: Sequence[Thing],
    sketches: Hands,
    photos: Hands,
    min_concepts: int,
) -> list[Drawing]:
    """The drawings of things that have a sketch and a photo, of classes with enough of them.

    Args:
        things: in a fixed order.
        sketches: for each hand, the SVG (text or file) by code.
        photos: likewise.
        min_concepts: things that a class needs.
    """
    both = [thing for thing in things if _drawn(thing, sketches) and _drawn(thing, photos)]
    count: dict[str, int] = defaultdict(int)
    for thing in both:
        count[thing.group] += 1
    return [
        Drawing(thing, hand, is_sketch, by_code[thing.code])
        for thing in both
        if count[thing.group] >= min_concepts
        for is_sketch, hands in ((True, sketches), (False, photos))
        for hand, by_code in hands.items()
        if thing.code in by_code
    ]


def draw_classes(names: Sequence[str], test: int, validation: int, seed: int) -> ClassSplit:
    """Classes of test, drawn first, of validation, and all others for train.

    Raises:
        UserError: fewer than two classes would be left for training.
    """
    order = [sorted(names)[i] for i in np.random.default_rng(seed).permutation(len(names))]
    if test + validation + 2 > len(order):
        raise UserError(
            f"{len(order)} classes are too few for test_classes = {test}, validation_classes = {validation} "
            "and two of training.\nFix: lower them, or source.min_concepts."
        )
    parts = {
        TRAIN: order[test + validation :],
        VALIDATION: order[test : test + validation],
        TEST: order[:test],
    }
    return ClassSplit({split: tuple(sorted(part)) for split, part in parts.items()})


def near_twins(drawings: Sequence[Drawing], thumbnails: np.ndarray) -> np.ndarray:
    """Number (N,) of what each drawing shows; near twins share one.

    Joined are drawings of one thing, of things that share a text of `Thing.twins`, and drawings of one hand
    whose thumbnails (N, 1024) correlate by more than 0.95.
    """
    first: dict[str, int] = {}
    links = [
        (first.setdefault(text, number), number)
        for number, each in enumerate(drawings)
        for text in (f"code {each.thing.code}", *(f"text {twin}" for twin in each.thing.twins))
    ]
    pairs = [np.array(links, dtype=np.int64).reshape(-1, 2)]
    for hand in sorted({each.hand for each in drawings}):
        own = np.flatnonzero([each.hand == hand for each in drawings])
        pairs.append(own[concepts.similar_pairs(thumbnails[own], THUMBNAIL_TWINS, centre=True)])
    return concepts.join(len(drawings), np.concatenate(pairs))


def keep_twins_together(
    drawings: Sequence[Drawing], twins: np.ndarray, parts: ClassSplit
) -> tuple[dict[str, list[Drawing]], int]:
    """The drawings of every split, and how many were left out: of twins whose classes lie on two sides, those
    of the side that is seen more. Test keeps all of its drawings."""
    split_of = {name: split for split, names in parts.classes.items() for name in names}
    splits = [split_of[each.thing.group] for each in drawings]
    side: dict[int, str] = {}
    for number, split in zip(twins.tolist(), splits, strict=True):
        side[number] = min(side.get(number, split), split, key=_HELD_OUT_MOST.index)
    kept: dict[str, list[Drawing]] = {split: [] for split in (TRAIN, VALIDATION, TEST)}
    for each, number, split in zip(drawings, twins.tolist(), splits, strict=True):
        if side[number] == split:
            kept[split].append(each)
    return kept, len(drawings) - sum(map(len, kept.values()))


def open_drawn(
    drawings: Sequence[Drawing],
    settings: DrawnSettings,
    counts: tuple[int, int],
    takes: Callable[[str, Drawing], bool] = lambda split, drawing: True,
) -> Mapping[str, RawSplit]:
    """The splits in couples of sketches and photos, PNG bytes.

    Args:
        drawings: of all classes.
        settings: size, seed and the folder of computed thumbnails.
        counts: classes of test and of validation.
        takes: whether a split has a sketch.

    Raises:
        UserError: too few classes, or a class is left without sketches or photos.
    """
    names = sorted({each.thing.group for each in drawings})
    parts = draw_classes(names, *counts, settings.seed)
    twins = near_twins(drawings, _thumbnails(drawings, settings))
    kept, left_out = keep_twins_together(drawings, twins, parts)
    splits: dict[str, RawSplit] = {}
    for split, own in kept.items():
        sketches = [each for each in own if each.is_sketch and takes(split, each)]
        photos = [each for each in own if not each.is_sketch]
        _check_whole(split, parts.classes[split], sketches, photos)
        splits[split] = _raw_split(sketches, names, settings.size)
        splits[split + PHOTOS] = _raw_split(photos, names, settings.size)
    log.info(
        "%d drawings of %d things in %d classes, %d after near twins are joined; %s; %d twins left out",
        len(drawings),
        len({each.thing.code for each in drawings}),
        len(names),
        twins.max() + 1,
        ", ".join(f"{name} {len(split.keys)}" for name, split in splits.items()),
        left_out,
    )
    return splits


def _check_whole(
    split: str, classes: Sequence[str], sketches: Sequence[Drawing], photos: Sequence[Drawing]
) -> None:
    for what, own in (("sketches", sketches), ("photos", photos)):
        if missing := sorted(set(classes) - {each.thing.group for each in own}):
            raise UserError(
                f"split {split!r}: no {what} are left of {', '.join(missing)}.\n"
                "Fix: raise source.min_concepts, or change source.seed or the hands."
            )


def _drawn(thing: Thing, hands: Hands) -> bool:
    return any(thing.code in by_code for by_code in hands.values())


def _thumbnails(drawings: Sequence[Drawing], settings: DrawnSettings) -> np.ndarray:
    # Packages are pinned, so that keys decide what is drawn.
    key = [settings.size, [each.key for each in drawings]]

    def compute() -> np.ndarray:
        return features.thumbnails(features.rasterise([each.svg for each in drawings], settings.size))

    return features.load_or_compute(settings.download / "features", "drawn_pixels", key, compute)


def _raw_split(drawings: Sequence[Drawing], names: Sequence[str], size: int) -> RawSplit:
    label_of = {name: label for label, name in enumerate(names)}

    def read(number: int) -> Sample:
        each = drawings[number]
        shown = {"image": f"{each.thing.name} by {each.hand}", "label": each.thing.group}
        png = features.draw_png(each.svg, size)
        return Sample(each.key, {IMAGE: png}, label_of[each.thing.group], shown)

    return RawSplit([each.key for each in drawings], read, class_names=tuple(names))
