"""Clips whose caption is about motion: emoji moved by animations of animate.css, as raw frames.

A picture has several clips, each with another motion. Motions that begin alike have equal first frames, so
that only later ones tell "from the left" and "from the right" apart. The label is the motion.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swamp_dist.config import MotionSource
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.records import RawSplit, Sample
from swamp_dist.sources import concepts, features
from swamp_dist.sources.emoji import (
    KEYWORDS,
    NAMES,
    OTHER_NAMES,
    Picture,
    group,
    pictures_of,
    read_concepts,
    read_thumbnails,
)
from swamp_dist.sources.emoji_pictures import ARTISTS, read_pictures
from swamp_dist.sources.motion_phrases import phrases
from swamp_dist.sources.moving_pictures import Motion, draw_clips
from swamp_dist.sources.packages import Package, fetch

log = logging.getLogger(__name__)

ANIMATIONS = Package(
    "npm",
    "animate.css",
    "4.1.1",
    "c51565d3706f687a14b5d919a9743a2feb45d7b7915823d67e6a3ab30759fa75",
)
SPLITS = ("train", "validation", "test")
FIELD = "frames"


@dataclass(frozen=True)
class Clip:
    """A picture and how it moves."""

    picture: Picture
    motion: str
    phrase: str

    @property
    def key(self) -> str:
        """Artist, code points and motion."""
        return f"{self.picture.key}-{self.motion}"

    @property
    def caption(self) -> str:
        """What is seen and what it does: "cat face bounces in from the left"."""
        return f"{self.picture.concept.captions[0]} {self.phrase}"


def open_splits(settings: MotionSource) -> Mapping[str, RawSplit]:
    """Splits train, validation and test; field `frames` (frames, 3, S, S) uint8 and one caption.

    No concept is in two splits, with all its genders and look-alikes; validation and test have one picture
    per concept. Downloads packages on the first call, and draws the clips.

    Raises:
        UserError: a package or a browser cannot be had, a motion is not known, or concepts do not suffice.
    """
    css = read_css(fetch(ANIMATIONS, settings.download) / "package")
    moves = phrases(re.findall(r"@keyframes (\w+)", css), settings.motions)
    if len(moves) < settings.clips_per_picture:
        raise UserError(
            f"clips_per_picture = {settings.clips_per_picture}: only {len(moves)} motions are used "
            "(source.motions), and every clip of a picture has another one"
        )
    parts = _divide(settings)
    clips = {name: deal_motions(parts[name], moves, settings) for name in SPLITS}
    every = [clip for name in SPLITS for clip in clips[name]]
    drawn = _frames(every, css, settings)
    log.info(
        "motion: %d clips of %d frames, %d motions; %s",
        len(every),
        settings.frames,
        len(moves),
        ", ".join(f"{name} {len(clips[name])} of {len(parts[name])} pictures" for name in SPLITS),
    )
    ends = np.cumsum([len(clips[name]) for name in SPLITS])[:-1]
    rows = dict(zip(SPLITS, np.split(drawn, ends), strict=True))
    return {name: _raw_split(clips[name], rows[name], moves, settings.frames) for name in SPLITS}


def item_fields(settings: MotionSource) -> frozenset[str]:
    """No field of the samples has several items."""
    return frozenset()


def read_css(folder: Path) -> str:
    """The style sheet of the package.

    Raises:
        UserError: the file is absent.
    """
    file = folder / "animate.css"
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; the package animate.css has it there") from None


def deal_motions(pictures: Sequence[Picture], moves: Mapping[str, str], settings: MotionSource) -> list[Clip]:
    """Clips of all pictures, `clips_per_picture` of each with as many different motions. Motions go round in
    an order drawn from the seed, so that each is used as often as any other, or once more."""
    names = sorted(moves)
    order = [names[i] for i in np.random.default_rng(settings.seed).permutation(len(names))]
    each = settings.clips_per_picture
    return [
        Clip(picture, (motion := order[(number * each + k) % len(order)]), moves[motion])
        for number, picture in enumerate(pictures)
        for k in range(each)
    ]


def check_frames(key: str, frames: np.ndarray, count: int) -> None:
    """Refuse frames (F, 3, S, S) that are no clip.

    Raises:
        BadEntry: fewer frames than `count`, nothing to be seen, or nothing that moves.
    """
    if len(frames) < count:
        raise BadEntry(key, "too few frames", f"{len(frames)} frames, a clip of this set has {count}")
    if (frames == 255).all():
        raise BadEntry(key, "empty clip", "no frame shows anything: the animation or its picture is broken")
    if (frames == frames[:1]).all():
        raise BadEntry(key, "no motion", "all frames are equal: the animation did not run")


def _divide(settings: MotionSource) -> dict[str, list[Picture]]:
    """The pictures of every split."""
    names, keywords, others = (fetch(each, settings.download) for each in (NAMES, KEYWORDS, OTHER_NAMES))
    found = read_concepts(names / "package", keywords / "package", others / "package")
    pictures = pictures_of(found, read_pictures([settings.artist], settings.download))
    twins = group(pictures, read_thumbnails(pictures, [settings.artist], 64, settings.download))
    parts = dict(
        concepts.split(twins, settings.test_pictures, settings.validation_pictures, 0, settings.seed)
    )
    wanted, training = settings.train_pictures, parts["train"]
    if wanted > len(training):
        raise UserError(
            f"train_pictures = {wanted}: {len(training)} pictures are left for training beside those of "
            f"validation and test.\nFix: {len(training)} at most"
        )
    drawn = np.random.default_rng(settings.seed).permutation(len(training))[:wanted]
    parts["train"] = training[np.sort(drawn)]
    return {name: [pictures[i] for i in parts[name]] for name in SPLITS}


def _frames(clips: Sequence[Clip], css: str, settings: MotionSource) -> np.ndarray:
    """(N, frames, 3, S, S) uint8, drawn once."""
    key = [
        settings.size,
        settings.frames,
        [each.key for each in clips],
        [ARTISTS[settings.artist].sha256, ANIMATIONS.sha256],
    ]

    def compute() -> np.ndarray:
        # Twice the side of a frame, because some motions enlarge the picture.
        pngs = {each.picture.key: features.draw_png(each.picture.svg, 2 * settings.size) for each in clips}
        moved = [Motion(pngs[each.picture.key], each.motion) for each in clips]
        return draw_clips(moved, css, settings.frames, settings.size)

    return features.load_or_compute(settings.download / "features", "motion_frames", key, compute)


def _raw_split(clips: Sequence[Clip], frames: np.ndarray, moves: Mapping[str, str], count: int) -> RawSplit:
    label_of = {motion: label for label, motion in enumerate(moves)}

    def read(number: int) -> Sample:
        each = clips[number]
        check_frames(each.key, frames[number], count)
        shown = {FIELD: f"{each.caption}, by {each.picture.artist}", "label": each.phrase}
        return Sample(
            each.key, {FIELD: frames[number]}, label_of[each.motion], shown, captions=(each.caption,)
        )

    def captions() -> Iterator[Sequence[str]]:
        return ((each.caption,) for each in clips)

    return RawSplit([each.key for each in clips], read, captions, class_names=tuple(moves.values()))
