"""Emoji: pictures of several artists, joined by code point, each with five texts.

Flags, components and skin tones are left out, and concepts with fewer than five distinct names and keywords.
An entry is one picture of one artist. Its captions (`five_captions`) are the name, and four phrases
of keywords. The label is Unicode's subgroup.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swamp_dist.config import EmojiSource
from swamp_dist.errors import UserError
from swamp_dist.records import RawSplit, Sample
from swamp_dist.sources import concepts, features
from swamp_dist.sources.emoji_pictures import ARTISTS, read_pictures
from swamp_dist.sources.openmoji import THUMBNAIL_TWINS, without_gender
from swamp_dist.sources.packages import Package, fetch

log = logging.getLogger(__name__)

NAMES = Package(
    "npm",
    "emojibase-data",
    "17.0.0",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)
KEYWORDS = Package(
    "npm", "emojilib", "4.0.3", "7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303"
)
OTHER_NAMES = Package(
    "npm", "unicode-emoji-json", "0.9.0", "ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401"
)
LEFT_OUT_GROUPS = ("component", "flags")
CAPTIONS = 5
SPLITS = ("train", "validation", "test")
_PERSON = {"1f468", "1f469", "1f9d1"}
_SIGNS = {"200d", "2640", "2642", "fe0f"}


@dataclass(frozen=True)
class Concept:
    """An emoji with its words."""

    code: str
    """Code points in lower-case hexadecimal, joined by '-', without the variation selector FE0F."""
    name: str
    captions: tuple[str, ...]
    subgroup: int
    """Class: Unicode's number of the subgroup."""


@dataclass(frozen=True)
class Picture:
    """One artist's drawing of a concept."""

    concept: Concept
    artist: str
    svg: str

    @property
    def key(self) -> str:
        """Artist and code points."""
        return f"{self.artist}-{self.concept.code}"


def open_splits(settings: EmojiSource) -> Mapping[str, RawSplit]:
    """Splits train, validation and test; field `image` (PNG bytes) and five captions.

    No concept is in two splits, with all its artists, genders and look-alikes; validation and test have one
    picture per concept, of a drawn artist. Downloads packages on the first call.

    Raises:
        UserError: a package cannot be had, or concepts do not suffice for the split.
    """
    names, keywords, others = (fetch(each, settings.download) for each in (NAMES, KEYWORDS, OTHER_NAMES))
    found = read_concepts(names / "package", keywords / "package", others / "package")
    drawn = read_pictures(settings.artists, settings.download)
    pictures = pictures_of(found, drawn)
    twins = group(pictures, read_thumbnails(pictures, settings.artists, settings.size, settings.download))
    parts = concepts.split(twins, settings.test_items, settings.validation_items, 0.0, settings.seed)
    log.info(
        "emoji: %d pictures of %d concepts, %d after near twins are joined; %s",
        len(pictures),
        len({each.concept.code for each in pictures}),
        twins.max() + 1,
        ", ".join(f"{name} {len(parts[name])}" for name in SPLITS),
    )
    return {name: _raw_split([pictures[i] for i in parts[name]], settings.size) for name in SPLITS}


def item_fields(settings: EmojiSource) -> frozenset[str]:
    """No field of the samples has several items; that of the captions, which a build adds, has."""
    return frozenset()


def read_concepts(names: Path, keywords: Path, others: Path) -> list[Concept]:
    """Concepts with five captions, in Unicode's order, from the folders of the three packages."""
    entries = _read(names / "en" / "data.json")
    groups = _read(names / "meta" / "groups.json")["groups"]
    tags = {code_of(emoji): words for emoji, words in _read(keywords / "dist" / "emoji-en-US.json").items()}
    second = {code_of(emoji): each["name"] for emoji, each in _read(others / "data-by-emoji.json").items()}
    found = []
    for entry in entries:
        if "group" not in entry or groups[str(entry["group"])] in LEFT_OUT_GROUPS:
            continue
        code = code_of(entry["emoji"])
        own = [second.get(code, ""), *tags.get(code, ()), *entry.get("tags", ())]
        captions = five_captions(entry["label"], own)
        if captions is not None:
            found.append(Concept(code, entry["label"], captions, entry["subgroup"]))
    if not found:
        raise UserError(f"{names}/en/data.json: no emoji has {CAPTIONS} names and keywords")
    return found


def pictures_of(found: Sequence[Concept], drawn: Mapping[str, Mapping[str, str]]) -> list[Picture]:
    """The pictures of these concepts, concept by concept.

    Args:
        found: concepts.
        drawn: for each artist, SVG by code points.
    """
    return [
        Picture(concept, artist, by_code[concept.code])
        for concept in found
        for artist, by_code in drawn.items()
        if concept.code in by_code
    ]


def five_captions(name: str, words: Sequence[str]) -> tuple[str, ...] | None:
    """The name, then four phrases: other names and keywords, each once and in their order, are dealt to them
    in turn. None where fewer than four are left. Texts without a letter, and those that start with a sign as
    `:D` does, do not count.

    Underscores are read as spaces and case does not count: `red_heart` repeats "red heart".
    """
    texts = dict.fromkeys(_plain(text) for text in (name, *words))
    first, *rest = [text for text in texts if re.match(r"\w.*[^\W\d]|[^\W\d]", text)] or [""]
    if len(rest) < CAPTIONS - 1:
        return None
    return (first, *(", ".join(rest[start :: CAPTIONS - 1]) for start in range(CAPTIONS - 1)))


def group(pictures: Sequence[Picture], thumbnails: np.ndarray) -> np.ndarray:
    """Number (N,) of what each picture shows; near twins share one.

    Joined are pictures of one code point, or of code points that differ in gender alone; of names that
    are equal without gender words up to a colon ("family: man, boy"); and of one artist whose thumbnails
    (N, 1024) correlate by more than 0.95 (faces of a clock).
    """
    pairs = [
        _equal_pairs([without_sex(each.concept.code) for each in pictures]),
        _equal_pairs([topic(each.concept.name) for each in pictures]),
    ]
    for artist in sorted({each.artist for each in pictures}):
        own = np.flatnonzero([each.artist == artist for each in pictures])
        pairs.append(own[concepts.similar_pairs(thumbnails[own], THUMBNAIL_TWINS, centre=True)])
    return concepts.join(len(pictures), np.concatenate(pairs))


def read_thumbnails(
    pictures: Sequence[Picture], artists: Sequence[str], size: int, download: Path
) -> np.ndarray:
    """(N, 1024) thumbnails of pictures that are `size` pixels high and wide, computed once below
    `download`."""
    key = [size, [each.key for each in pictures], [ARTISTS[each].sha256 for each in artists]]

    def compute() -> np.ndarray:
        return features.thumbnails(features.rasterise([each.svg for each in pictures], size))

    return features.load_or_compute(download / "features", "emoji_pixels", key, compute)


def code_of(emoji: str) -> str:
    """Code points as in `Concept.code`."""
    return "-".join(f"{ord(character):x}" for character in emoji if ord(character) != 0xFE0F)


def without_sex(code: str) -> str:
    """Code points as in `Concept.code`, the same for those that differ in gender alone."""
    parts = [part for part in code.split("-") if part not in _SIGNS]
    return "-".join("1f9d1" if part in _PERSON else part for part in parts)


def topic(name: str) -> str:
    """What a name is about: up to a colon, without gender words; "family: man, boy" is about a family."""
    return without_gender(name.partition(":")[0]).lower()


def _equal_pairs(values: Sequence[str]) -> np.ndarray:
    """Pairs (P, 2) that link each item to the first of the same value."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(value, i), i) for i, value in enumerate(values)]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _plain(text: str) -> str:
    return " ".join(text.replace("_", " ").lower().split())


def _raw_split(pictures: Sequence[Picture], size: int) -> RawSplit:
    def read(number: int) -> Sample:
        each = pictures[number]
        shown = {"image": f"{each.concept.name} by {each.artist}"}
        image = features.draw_png(each.svg, size)
        return Sample(
            each.key, {"image": image}, each.concept.subgroup, shown, captions=each.concept.captions
        )

    def captions() -> Iterator[Sequence[str]]:
        return (each.concept.captions for each in pictures)

    return RawSplit([each.key for each in pictures], read, captions)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
