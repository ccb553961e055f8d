"""Emoji by several artists, with five texts each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from swamp_dist.bounds import Count, Seed
from swamp_dist.settings import WORKING_FOLDER, Settings

EmojiArtist = Literal["noto", "twemoji", "openmoji", "fluent", "emojione"]


class EmojiSource(Settings):
    """Emoji by several artists, each picture with five texts: names and keywords of the npm packages
    emojibase-data, emojilib and unicode-emoji-json, pictures of the sets of @iconify-json."""

    kind: Literal["emoji"] = "emoji"
    download: Annotated[Path, WORKING_FOLDER] = Path("data/downloads")
    """Where packages are unpacked, relative to the working folder; nothing is fetched again when present."""
    artists: Annotated[tuple[EmojiArtist, ...], Field(min_length=1)] = (
        "noto",
        "twemoji",
        "openmoji",
        "fluent",
        "emojione",
    )
    """Whose pictures to take: an entry is one picture of one of them."""
    size: Annotated[int, Field(ge=32, le=1024, multiple_of=32)] = 64
    """Side of the drawn pictures in pixels."""
    seed: Seed = 0
    """Seed of the split."""
    test_items: Count = 400
    """Pictures of the test split, one per concept."""
    validation_items: Count = 200
    """Pictures of the validation split, one per concept."""

    @field_validator("artists")
    @classmethod
    def _are_distinct(cls, value: tuple[EmojiArtist, ...]) -> tuple[EmojiArtist, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"expected every artist once; found {', '.join(value)}")
        return value
