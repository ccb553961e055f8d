"""Clips of emoji that move, with captions that say how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from swamp_dist.bounds import Count, Seed
from swamp_dist.config.emoji import EmojiArtist
from swamp_dist.settings import WORKING_FOLDER, Settings


class MotionSource(Settings):
    """Short clips of raw frames: pictures of one set of @iconify-json, moved by the animations of the npm
    package animate.css, with captions that say what moves and how. Names are those of emojibase-data."""

    kind: Literal["motion"] = "motion"
    download: Annotated[Path, WORKING_FOLDER] = Path("data/downloads")
    """Where packages are unpacked and drawn clips are kept, relative to the working folder; nothing is
    fetched or drawn again when present."""
    artist: EmojiArtist = "noto"
    """Whose pictures move."""
    motions: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """Names of animations, for example bounceInLeft; null takes the 85 that 8 frames tell apart."""
    clips_per_picture: Count = 4
    """Clips of every picture, each with another motion."""
    train_pictures: Count = 350
    """Pictures of the train split."""
    validation_pictures: Count = 50
    """Pictures of the validation split, one per concept."""
    test_pictures: Count = 100
    """Pictures of the test split, one per concept."""
    frames: Annotated[int, Field(ge=2, le=64)] = 8
    """Frames of a clip, at equal times: the first is the start of the motion, the last its end."""
    size: Annotated[int, Field(ge=16, le=256, multiple_of=16)] = 48
    """Side of a frame in pixels."""
    seed: Seed = 0
    """Seed of the split and of which motions a picture has."""

    @field_validator("motions")
    @classmethod
    def _are_distinct(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError(f"expected every motion once; found {', '.join(value)}")
        return value
