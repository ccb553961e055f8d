"""Retrieval examples as cards: a query, and the five items that come first."""

from __future__ import annotations

from collections.abc import Iterator

from swamp_dist.pages.pictures import PagePictures
from swamp_dist.printable import html_text
from swamp_dist.report.beside import Beside, TwoAnswers
from swamp_dist.report.examples import Direction, Examples, ShownSide, all_ranked
from swamp_dist.report.parts import Section, notes
from swamp_dist.report.ranked import Hit, Ranked

_LONGEST = 160
"""Characters of a text that is shown."""


def examples_part(found: Examples, pictures: PagePictures) -> Section:
    """Both directions; every picture stands in the page once."""
    told = [
        f"Run {found.run}, split {found.split}. A green mark says that an item is right. Best queries find "
        "it first and by the largest margin, worst ones last; random ones follow from their keys."
    ]
    body = "".join(_direction(each, pictures) for each in found.directions)
    return Section("examples", "Examples", notes(told) + body)


def beside_part(found: Beside, pictures: PagePictures) -> Section:
    """Both directions of two runs, query by query."""
    first, second = found.runs
    told = [
        f"Split {found.split}. The same queries, drawn by their keys: above what {first} finds, below what "
        f"{second} finds. A green mark says that an item is right."
    ]
    body = "".join(_two_answers(found, each, pictures) for each in found.directions)
    return Section("beside", "Two runs", notes(told) + body)


def _two_answers(found: Beside, way: TwoAnswers, pictures: PagePictures) -> str:
    heading = f"{way.queries.name} to {way.gallery.name}, {way.relevance} relevance"
    cards = []
    for first, second in zip(way.first, way.second, strict=True):
        query = "".join(_item(way.queries, first.query, pictures))
        answers = []
        for run, each in zip(found.runs, (first, second), strict=True):
            hits = "".join(_hit(way.gallery, hit, pictures) for hit in each.top)
            place = f"{run}: first right item at {each.rank:,} of {len(way.gallery.entry):,}"
            answers.append(f'<p class="facts"><span>{html_text(place)}</span></p>\n<ol>{hits}</ol>\n')
        cards.append(f'<article><div class="query">{query}</div>\n{"".join(answers)}</article>\n')
    return f'<h3>{html_text(heading)}</h3>\n<div class="examples">\n{"".join(cards)}</div>\n'


def _direction(found: Direction, pictures: PagePictures) -> str:
    heading = f"{found.queries.name} to {found.gallery.name}, {found.relevance} relevance"
    parts = [f"<h3>{html_text(heading)}</h3>\n"]
    for kind, ranked in all_ranked(found.chosen):
        cards = "".join(_card(found, each, pictures) for each in ranked)
        parts.append(f'<h4>{kind} queries</h4>\n<div class="examples">\n{cards}</div>\n')
    return "".join(parts)


def _card(found: Direction, each: Ranked, pictures: PagePictures) -> str:
    total = len(found.gallery.entry)
    place = f"first right item at {each.rank:,} of {total:,}"
    hits = "".join(_hit(found.gallery, hit, pictures) for hit in each.top)
    query = "".join(_item(found.queries, each.query, pictures))
    return (
        f'<article><div class="query">{query}<p class="facts"><span>{html_text(place)}</span>'
        f"<span>margin {each.margin:+.3f}</span></p></div>\n<ol>{hits}</ol></article>\n"
    )


def _hit(side: ShownSide, hit: Hit, pictures: PagePictures) -> str:
    name, said = ("right", "right") if hit.is_right else ("wrong", "not right")
    shown = "".join(_item(side, hit.item, pictures))
    return f'<li class="{name}">{shown}<small>{hit.score:.3f}, {said}</small></li>'


def _item(side: ShownSide, item: int, pictures: PagePictures) -> Iterator[str]:
    said = _cut(side.told(item))
    if side.kind != "image":
        yield f'<p class="text">{html_text(said)}</p>'
        return
    key = side.key(item)
    label = said if said == key else f"{key}: {said}"
    yield f'<div class="pictures">{pictures.span(side.uris[side.entry[item]], label)}</div>'


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3].rstrip() + "..."
