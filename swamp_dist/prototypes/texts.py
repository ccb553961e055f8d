"""The words that a split holds: texts of a modality, texts of other fields, or captions beside the fields."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from swamp_dist.data.entry import Entry
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.data.words import open_words
from swamp_dist.prototypes.assignment import Assigned

Texts = tuple[str, ...]
Sides = tuple[Assigned, Assigned]
_IMAGE_FILE = re.compile(r".+\.(png|jpe?g|webp|svg|gif)", re.IGNORECASE)


@dataclass(frozen=True)
class SplitTexts:
    """Texts of a split; equal items of one entry stay several."""

    items: tuple[Texts | None, Texts | None]
    """The text of every item of a and of b, in the order of their embeddings; None of a modality that holds
    none."""
    entries: tuple[Texts, ...]
    """What each entry says beside its a and b: texts of further fields, else the captions stored with it."""


def told_of(texts: SplitTexts, keys: Sequence[str], place: int, item: int, entry: int) -> str:
    """What is said of an item of a (place 0) or b (1): its text, else one beside its entry, else its key."""
    own = texts.items[place]
    if own is not None:
        return own[item]
    beside = texts.entries[entry]
    return beside[0] if beside else keys[entry]


def read_texts(manifest: Manifest, split: str, fields: tuple[str, str]) -> SplitTexts:
    """All texts of a split, read once; images and features are not decoded.

    Args:
        manifest: the shard set.
        split: name of the split.
        fields: names of a and b.

    Raises:
        UserError: no such split, or a damaged entry.
    """
    readable = _readable(manifest)
    others = [name for name in readable if name not in fields]
    found: tuple[list[str], list[str]] = ([], [])
    entries: list[Texts] = []
    with contextlib.closing(open_reader(manifest, split, list(readable))) as reader:
        for entry in reader.each(range(len(manifest.split(split)))):
            for texts, field in zip(found, fields, strict=True):
                if field in readable:
                    texts += _texts(entry, field, readable[field])
            beside = [text for name in others for text in _texts(entry, name, readable[name])]
            entries.append(tuple(beside or dict.fromkeys(filter(None, entry.text.values()))))
    a, b = (tuple(texts) if field in readable else None for texts, field in zip(found, fields, strict=True))
    return SplitTexts((a, b), tuple(entries))


def texts_by_prototype(sides: Sides, texts: SplitTexts) -> dict[int, list[str]]:
    """The texts that say what a prototype is about.

    Those of the items that belong to it, where a modality holds texts. Else the texts of the entries of its
    items, those of an entry once per prototype, without paths of image files.
    """
    found: dict[int, list[str]] = {}
    if texts.items != (None, None):
        for side, own in zip(sides, texts.items, strict=True):
            for number, text in zip(side.prototype.tolist(), own or (), strict=own is not None):
                found.setdefault(number, []).append(text)
        return found
    places = {
        place for side in sides for place in zip(side.prototype.tolist(), side.entry.tolist(), strict=True)
    }
    for number, entry in sorted(places):
        if said := _said(texts.entries[entry]):
            found.setdefault(number, []).extend(said)
    return found


def source_of_words(texts: SplitTexts, fields: Sequence[str]) -> str | None:
    """Where `texts_by_prototype` takes its texts from, for a reader; None where there are none."""
    named = [field for field, own in zip(fields, texts.items, strict=True) if own is not None]
    if named:
        return f"texts of {' and '.join(named)}"
    return "texts beside the entries" if any(map(_said, texts.entries)) else None


def _said(beside: Texts) -> Texts:
    """The texts that are no paths of image files, whose folders and endings say nothing of what is shown."""
    return tuple(text for text in beside if not _IMAGE_FILE.fullmatch(text))


def _readable(manifest: Manifest) -> Mapping[str, Sequence[str] | None]:
    """Fields that hold texts or word ids; of the latter the words by id."""
    table = open_words(manifest)
    of_words = () if table is None else table.record.fields
    found: dict[str, Sequence[str] | None] = {}
    for name, spec in manifest.fields.items():
        if spec.kind == "text":
            found[name] = None
        elif table is not None and name in of_words:
            found[name] = table.words
    return found


def _texts(entry: Entry, field: str, words: Sequence[str] | None) -> Iterator[str]:
    values = entry.arrays[field]
    if words is None:
        yield from map(str, values.reshape(-1).tolist())
        return
    for ids in np.atleast_2d(values):
        yield " ".join(words[number] for number in ids.tolist() if number)
