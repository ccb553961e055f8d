"""Which items of a prototype are shown, and as what: a picture, a text, or the key of its entry."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from swamp_dist.data.manifest import Manifest
from swamp_dist.prototypes.assignment import Assigned
from swamp_dist.prototypes.study import Study
from swamp_dist.prototypes.texts import told_of

Order = Literal["nearest", "random"]
"""`nearest`: the highest scores first. `random`: as the paper draws them, in an order that follows from the
keys alone."""
Kind = Literal["image", "text", "key"]


@dataclass(frozen=True)
class ShownSide:
    """The items of one modality in one prototype, those that are shown first."""

    field: str
    kind: Kind
    items: tuple[int, ...]
    """All of them, as rows of the modality: who shows `n` takes the first."""


def side_kinds(found: Study) -> tuple[Kind, Kind]:
    """How items of a and of b are shown; features are told by texts beside their entries, or by keys."""
    a, b = (
        item_kind(found.manifest, field, texts is not None)
        for field, texts in zip(found.model.fields, found.texts.items, strict=True)
    )
    return a, b


def item_kind(manifest: Manifest, field: str, has_texts: bool) -> Kind:
    """How items of a field are shown."""
    if has_texts:
        return "text"
    return "image" if manifest.field(field).kind == "image" else "key"


def shown_sides(found: Study, number: int, order: Order) -> tuple[ShownSide, ShownSide]:
    """Both modalities of a prototype."""
    a, b = (
        ShownSide(field, kind, tuple(_repeats_last(_ordered(found, side, number, order), texts)))
        for field, kind, side, texts in zip(
            found.model.fields, side_kinds(found), found.sides, found.texts.items, strict=True
        )
    )
    return a, b


def draw_items(found: Study, place: int, most: int) -> list[int]:
    """At most `most` items of a (place 0) or b (1), in the order of the set; which, follows from the keys."""
    side = found.sides[place]
    drawn = sorted(range(len(side)), key=lambda item: _draw(found.keys[side.entry[item]], item))
    return sorted(drawn[:most])


def told(found: Study, place: int, item: int) -> str:
    """What is said of an item of a (place 0) or b (1): its text, else one beside its entry, else its key."""
    entry = int(found.sides[place].entry[item])
    return told_of(found.texts, found.keys, place, item, entry)


def key_of(found: Study, place: int, item: int) -> str:
    """Key of the entry of an item."""
    return found.keys[int(found.sides[place].entry[item])]


def _ordered(found: Study, side: Assigned, number: int, order: Order) -> list[int]:
    items: list[int] = (side.prototype == number).nonzero()[0].tolist()
    if order == "nearest":
        return sorted(items, key=lambda item: (-side.score[item], item))
    return sorted(items, key=lambda item: (_draw(found.keys[side.entry[item]], item), item))


def _repeats_last(items: list[int], texts: Sequence[str] | None) -> list[int]:
    """Items whose text stands before them behind all others: what is shown first is told once."""
    if texts is None:
        return items
    first = set({texts[item]: item for item in reversed(items)}.values())
    return [item for item in items if item in first] + [item for item in items if item not in first]


def _draw(key: str, item: int) -> bytes:
    return hashlib.blake2b(f"{key}/{item}".encode(), digest_size=8).digest()
