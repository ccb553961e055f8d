"""One prototype of the gallery: its figures, keywords and items."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

from swamp_dist.data.reader import open_reader
from swamp_dist.pages.pictures import PagePictures
from swamp_dist.printable import html_text
from swamp_dist.prototypes.keywords import title
from swamp_dist.prototypes.shown import Order, ShownSide, key_of, shown_sides, side_kinds, told
from swamp_dist.prototypes.study import PrototypeFigures, Study
from swamp_dist.prototypes.thumbnails import encode_thumbnail, read_pictures

LONGEST = 160
"""Characters of a text that is shown; longer ones end with three dots."""


@dataclass(frozen=True)
class CardPictures:
    """Thumbnails of the items that cards may show, as data URIs."""

    uris: tuple[dict[int, str], dict[int, str]]
    """By entry, of a and of b."""
    page: PagePictures = field(default_factory=PagePictures)
    """Of the page that shows them."""

    def on(self, page: PagePictures) -> CardPictures:
        """The same pictures for another page, which is filled as cards are made."""
        return replace(self, page=page)

    def span(self, place: int, entry: int, label: str) -> str:
        """A tag that shows the picture of an entry."""
        return self.page.span(self.uris[place][entry], label)


@dataclass(frozen=True)
class Card:
    """What one card shows."""

    found: Study
    figures: PrototypeFigures
    limit: int
    """Pictures at most; texts half as many, at least one where there are pictures."""
    order: Order


def card_pictures(found: Study, per_card: int, order: Order) -> CardPictures:
    """The thumbnails of the first `per_card` items of every prototype.

    Raises:
        UserError: an image is damaged or larger than the stage allows.
    """
    uris: tuple[dict[int, str], dict[int, str]] = ({}, {})
    for place, (name, kind) in enumerate(zip(found.model.fields, side_kinds(found), strict=True)):
        if kind != "image":
            continue
        entries = [
            int(found.sides[place].entry[item])
            for each in found.used
            for item in shown_sides(found, each.number, order)[place].items[:per_card]
        ]
        with contextlib.closing(open_reader(found.manifest, found.split, [name])) as reader:
            small = read_pictures(reader, name, entries, found.model.settings.data.images)
        uris[place].update((entry, encode_thumbnail(picture).uri) for entry, picture in small.items())
    return CardPictures(uris)


def card_html(card: Card, pictures: CardPictures) -> str:
    """An `article`, without anything that a file could add to it but text."""
    figures, found = card.figures, card.found
    number = f"{figures.number:04d}"
    words = "".join(f"<li>{html_text(word.word)}</li>" for word in figures.keywords)
    sides = zip((0, 1), shown_sides(found, figures.number, card.order), strict=True)
    shown = "".join(_side(card, place, side, pictures) for place, side in sides)
    name = html_text(title(figures.number, figures.keywords))
    return (
        f'<article id="p{number}" aria-labelledby="t{number}" data-size="{figures.items}" '
        f'data-agreement="{_exact(figures.agreement)}" data-purity="{_exact(figures.purity)}">\n'
        f'<h3 id="t{number}"><a href="#p{number}">{name}</a></h3>\n'
        f'<p class="facts">{_facts(card)}</p>\n'
        + (f'<ul class="words">{words}</ul>\n' if words else "")
        + f"{shown}</article>\n"
    )


def _facts(card: Card) -> str:
    figures, (a, b) = card.figures, card.found.model.fields
    told_of = [f"{a} {figures.sizes[0]}", f"{b} {figures.sizes[1]}"]
    if figures.agreement is not None:
        told_of.append(f"agreement {figures.agreement:.0%}")
    if figures.purity is not None:
        named = figures.class_name or f"class {figures.label}"
        told_of.append(f"purity {figures.purity:.0%} ({named})")
    return " ".join(f"<span>{html_text(fact)}</span>" for fact in told_of)


def _side(card: Card, place: int, side: ShownSide, pictures: CardPictures) -> str:
    if not side.items:
        return ""
    room = card.limit if side.kind == "image" else max(min(1, card.limit), card.limit // 2)
    items = side.items[:room]
    of = f"all {len(items)}" if len(items) == len(side.items) else f"{len(items)} of {len(side.items)} shown"
    heading = f"<h4>{html_text(side.field)}: {of}</h4>\n"
    if side.kind == "image":
        return f'{heading}<ul class="pictures">{_pictures(card, place, items, pictures)}</ul>\n'
    texts = "".join(f"<li>{html_text(_cut(told(card.found, place, item)))}</li>" for item in items)
    return f'{heading}<ul class="texts">{texts}</ul>\n'


def _pictures(card: Card, place: int, items: tuple[int, ...], pictures: CardPictures) -> str:
    found, made = card.found, []
    for item in items:
        key = key_of(found, place, item)
        said = told(found, place, item)
        label = _cut(said if said == key else f"{key}: {said}")
        made.append(f"<li>{pictures.span(place, int(found.sides[place].entry[item]), label)}</li>")
    return "".join(made)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3].rstrip() + "..."


def _exact(share: float | None) -> str:
    return "" if share is None else f"{share:.6f}"
