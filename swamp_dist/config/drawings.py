"""Drawings and colour pictures of the same things, by hands that packages hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from swamp_dist.bounds import Count, Seed
from swamp_dist.config.emoji import EmojiArtist
from swamp_dist.settings import WORKING_FOLDER, Settings

SketchHand = Literal["openmoji_black", "fluent_high_contrast", "emojione_monotone"]


class DrawnSettings(Settings):
    """What both sets of drawings share."""

    download: Annotated[Path, WORKING_FOLDER] = Path("data/downloads")
    """Where packages are unpacked, relative to the working folder; nothing is fetched again when present."""
    size: Annotated[int, Field(ge=32, le=1024, multiple_of=32)] = 64
    """Side of the drawn pictures in pixels."""
    seed: Seed = 0
    """Seed of the drawing of classes."""
    min_concepts: Count = 5
    """Classes of fewer things are left out."""


class DrawingsSource(DrawnSettings):
    """Emoji as drawings in black and as colour pictures, joined by code point; a class is a subgroup of
    Unicode. Drawings of the npm packages openmoji, @iconify-json/fluent-emoji-high-contrast and
    @iconify-json/emojione-monotone, pictures of the sets of @iconify-json."""

    kind: Literal["drawings"] = "drawings"
    sketches: Annotated[tuple[SketchHand, ...], Field(min_length=1)] = (
        "openmoji_black",
        "fluent_high_contrast",
        "emojione_monotone",
    )
    """Hands whose drawings are the sketches."""
    photos: Annotated[tuple[EmojiArtist, ...], Field(min_length=1)] = (
        "noto",
        "twemoji",
        "openmoji",
        "fluent",
        "emojione",
    )
    """Artists whose colour pictures stand for photos. openmoji, fluent and emojione drew sketches too, often
    with the same lines; noto and twemoji alone make a harder set."""
    held_out_hand: SketchHand | None = None
    """A hand of `sketches` that test has alone, and training and validation never."""
    test_classes: Count = 20
    """Unseen classes, of the splits test and test_photos."""
    validation_classes: Count = 8
    """Classes of validation and validation_photos."""

    @field_validator("sketches", "photos")
    @classmethod
    def _are_distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"expected every hand once; found {', '.join(value)}")
        return value

    @model_validator(mode="after")
    def _holds_out_one_of_several(self) -> DrawingsSource:
        if self.held_out_hand is not None and (
            self.held_out_hand not in self.sketches or len(self.sketches) < 2
        ):
            raise ValueError("held_out_hand: expected one of at least two hands in sketches")
        return self


class OutlinesSource(DrawnSettings):
    """Icons of the npm package @tabler/icons that are drawn in two styles: outlines are the sketches, filled
    shapes the photos; a class is a category."""

    kind: Literal["outlines"] = "outlines"
    test_classes: Count = 8
    """Unseen classes, of the splits test and test_photos."""
    validation_classes: Count = 3
    """Classes of validation and validation_photos."""
