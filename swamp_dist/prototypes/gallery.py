"""The gallery: every prototype with its items, in one HTML file that needs nothing else.

All text from files goes through `html_text`; see `pages/page.py` for what a browser is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swamp_dist.pages.page import MOST_BYTES, Page, read_part, sums_html
from swamp_dist.pages.pictures import PagePictures
from swamp_dist.printable import html_text
from swamp_dist.prototypes.cards import Card, CardPictures, card_html
from swamp_dist.prototypes.keywords import title
from swamp_dist.prototypes.shown import Order
from swamp_dist.prototypes.study import PrototypeFigures, Study

PER_CARD = 12
"""Pictures of a card at most; texts are half as many."""
_FEWER = (8, 6, 4, 3, 2, 1, 0)
"""What is tried where the page would be too large."""
_ORDERS = {"nearest": "the highest scores first", "random": "in random order"}


@dataclass(frozen=True)
class Gallery:
    """A page and what it had to leave out."""

    html: str
    per_card: int
    """Pictures of a card at most."""
    cards: int
    """Prototypes that have a card."""


def build_gallery(
    found: Study,
    pictures: CardPictures,
    per_card: int = PER_CARD,
    order: Order = "nearest",
    most_bytes: int = MOST_BYTES,
) -> Gallery:
    """The page with as many items per card as `most_bytes` has room for, and at most `per_card`.

    Where even cards without items are too many, only the largest prototypes get one. The page says both.
    """
    largest = sorted(found.used, key=lambda each: (-each.items, each.number))
    for limit in (per_card, *(fewer for fewer in _FEWER if fewer < per_card)):
        html = _page(found, largest, pictures, limit, per_card, order)
        if len(html.encode()) <= most_bytes:
            return Gallery(html, limit, len(largest))
    while len(html.encode()) > most_bytes and len(largest) > 1:
        largest = largest[: len(largest) // 2]
        html = _page(found, largest, pictures, 0, per_card, order)
    return Gallery(html, 0, len(largest))


def _page(
    found: Study,
    chosen: Sequence[PrototypeFigures],
    pictures: CardPictures,
    limit: int,
    asked: int,
    order: Order,
) -> str:
    shared = PagePictures()
    sections = "\n".join(_sections(found, chosen, pictures.on(shared), limit, order))
    body = f"""<header class="head">
<h1>{html_text(_title(found))}</h1>
{_sums(found)}
{_notes(found, len(chosen), limit, asked, order)}
</header>
{_bar(bool(found.classes))}
<main>
<div class="cards" id="flat" hidden></div>
{sections}
{_unused(found)}
</main>"""
    style = read_part("prototypes", "gallery.css") + shared.rules()
    return Page(_title(found), style, read_part("prototypes", "gallery.js"), body).html()


def _title(found: Study) -> str:
    return f"Prototypes of {found.model.settings.name} on {found.split}"


def _sections(
    found: Study,
    chosen: Sequence[PrototypeFigures],
    pictures: CardPictures,
    limit: int,
    order: Order,
) -> list[str]:
    """One per super-cluster that has a card, its largest prototypes first."""
    named = {each.number: title(each.number, each.keywords) for each in found.prototypes}
    made = []
    for place, group in enumerate(found.super_clusters):
        members = [each for each in chosen if each.super_cluster == place]
        if not members:
            continue
        cards = [card_html(Card(found, each, limit, order), pictures) for each in members]
        about = ", ".join(named[each.number].partition(": ")[2] or named[each.number] for each in members[:3])
        close = "" if group.mean_cosine is None else f"; mean cosine {group.mean_cosine:.2f}"
        count = f"{len(group.members)} prototype{'s' if len(group.members) > 1 else ''}"
        made.append(
            f'<section class="group"><h2>{html_text(about)} '
            f"<span>super-cluster of {count}{close}</span></h2>\n"
            f'<div class="cards">\n{"".join(cards)}</div></section>'
        )
    return made


def _sums(found: Study) -> str:
    a, b = found.model.fields
    agreed, both = found.agreement, found.classes.get("both")
    figures = [
        ("prototypes in use", f"{len(found.used)} of {len(found.prototypes)}"),
        (f"items of {a}", f"{len(found.sides[0]):,}"),
        (f"items of {b}", f"{len(found.sides[1]):,}"),
        ("agreement of pairs", f"{agreed.share:.1%}"),
        ("by chance", f"{agreed.chance:.1%}"),
        ("super-clusters", str(len(found.super_clusters))),
    ]
    if both is not None:
        figures += [("purity", f"{both.purity:.1%}"), ("NMI with classes", f"{both.nmi:.2f}")]
    return sums_html(figures)


def _notes(found: Study, cards: int, limit: int, asked: int, order: Order) -> str:
    lines = [
        "An item belongs to the prototype of its highest score. Agreement is the share of pairs whose two "
        "sides have the same prototype.",
        f"Keywords: class-based tf-idf over {found.words_from or 'nothing, as the set has no texts'}.",
        f"A card shows at most {limit} pictures and {limit // 2 or min(1, limit)} texts, {_ORDERS[order]}.",
    ]
    if limit < asked:
        lines.append(f"{asked} pictures were asked for; fewer are shown to keep the page below 5 MB.")
    if cards < len(found.used):
        lines.append(
            f"{cards} of {len(found.used)} prototypes have a card, the largest; prototypes.json has all."
        )
    step = found.learned.weights.metadata.get("step")
    lines.append(f"Weights: {found.model.weights}" + (f", step {step}." if step else "."))
    return "\n".join(f"<p>{html_text(line)}</p>" for line in lines)


def _bar(classes: bool) -> str:
    purity = '<option value="purity">purity</option>' if classes else ""
    return (
        '<div class="bar" hidden><form role="search">'
        '<label class="find">Search <input id="find" type="search" autocomplete="off" '
        'placeholder="keywords and texts ( / )"></label>'
        '<label>Order by <select id="sort"><option value="group">super-cluster</option>'
        '<option value="size">size</option><option value="agreement">agreement</option>'
        f"{purity}</select></label>"
        '<output id="count" for="find sort" aria-live="polite"></output></form></div>'
    )


def _unused(found: Study) -> str:
    empty = [f"{each.number:04d}" for each in found.prototypes if not each.items]
    if not empty:
        return ""
    return f'<p class="unused">Without items on this split ({len(empty)}): {", ".join(empty)}</p>'
