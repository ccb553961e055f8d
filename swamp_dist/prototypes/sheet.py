"""A picture of some prototypes like the paper's Figure 2: title, five pictures and four texts of each."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from swamp_dist.data.reader import open_reader
from swamp_dist.printable import printable
from swamp_dist.prototypes.keywords import title
from swamp_dist.prototypes.shown import Order, shown_sides, side_kinds, told
from swamp_dist.prototypes.study import PrototypeFigures, Study
from swamp_dist.prototypes.thumbnails import SIDE, read_pictures

MOST = 24
"""Prototypes of a sheet: the largest, by number."""
_PICTURES, _TEXTS, _COLUMNS = 5, 4, 2
_GAP, _LINE, _TITLE = 8, 17, 24
_WIDTH = _PICTURES * (SIDE + _GAP) + _GAP


def draw_sheet(found: Study, order: Order) -> bytes:
    """A PNG file; characters that its font lacks are drawn as boxes.

    Raises:
        UserError: an image is damaged or larger than the stage allows.
    """
    from PIL import Image, ImageDraw

    chosen = sorted(found.used, key=lambda each: (-each.items, each.number))[:MOST]
    chosen.sort(key=lambda each: each.number)
    rows, height = -(-len(chosen) // _COLUMNS), _cell_height(found)
    sheet = Image.new("RGB", (_COLUMNS * _WIDTH + _GAP, rows * height + _TITLE + 2 * _GAP), "white")
    draw, pictures = ImageDraw.Draw(sheet), _pictures(found, chosen, order)
    for place, each in enumerate(chosen):
        corner = (_GAP + place % _COLUMNS * _WIDTH, _GAP + place // _COLUMNS * height)
        _draw_one(draw, sheet, found, each, corner, pictures[each.number], order)
    told_of = (
        f"{found.model.settings.name}, {found.split}: {len(chosen)} of {len(found.used)} prototypes in use"
    )
    more = ", the largest" if len(chosen) < len(found.used) else ""
    draw.text((_GAP, rows * height + _GAP), printable(told_of + more, one_line=True), "#555", font=_font(13))
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def _cell_height(found: Study) -> int:
    kinds = side_kinds(found)
    return (
        _TITLE + sum(SIDE + _GAP if kind == "image" else _TEXTS * _LINE + _GAP for kind in kinds) + 2 * _GAP
    )


def _pictures(found: Study, chosen: list[PrototypeFigures], order: Order) -> dict[int, dict[int, list[Any]]]:
    """By prototype and modality, the pictures that are drawn of it."""
    drawn: dict[int, dict[int, list[Any]]] = {each.number: {} for each in chosen}
    for place, (name, kind) in enumerate(zip(found.model.fields, side_kinds(found), strict=True)):
        if kind != "image":
            continue
        entries = {
            each.number: [
                int(found.sides[place].entry[item])
                for item in shown_sides(found, each.number, order)[place].items[:_PICTURES]
            ]
            for each in chosen
        }
        with contextlib.closing(open_reader(found.manifest, found.split, [name])) as reader:
            wanted = [entry for some in entries.values() for entry in some]
            small = read_pictures(reader, name, wanted, found.model.settings.data.images)
        for number, some in entries.items():
            drawn[number][place] = [small[entry] for entry in some]
    return drawn


def _draw_one(
    draw: Any,
    sheet: Any,
    found: Study,
    each: PrototypeFigures,
    corner: tuple[int, int],
    pictures: dict[int, list[Any]],
    order: Order,
) -> None:
    x, y = corner
    draw.text((x, y), _fit(draw, title(each.number, each.keywords), 15), "black", font=_font(15))
    y += _TITLE
    for place, side in enumerate(shown_sides(found, each.number, order)):
        if side.kind == "image":
            for column, picture in enumerate(pictures[place]):
                left, top = (SIDE - picture.width) // 2, (SIDE - picture.height) // 2
                sheet.paste(picture, (x + column * (SIDE + _GAP) + left, y + top))
            y += SIDE + _GAP
            continue
        for line, item in enumerate(side.items[:_TEXTS]):
            text = _fit(draw, told(found, place, item), 12)
            draw.text((x, y + line * _LINE), text, "#222", font=_font(12))
        y += _TEXTS * _LINE + _GAP


def _fit(draw: Any, text: str, size: int) -> str:
    """The text on one line of a cell, cut with three dots where it is longer."""
    clean, room, font = printable(text, one_line=True)[:200], _WIDTH - 2 * _GAP, _font(size)
    if draw.textlength(clean, font=font) <= room:
        return clean
    while clean and draw.textlength(clean + "...", font=font) > room:
        clean = clean[:-1]
    return clean + "..."


def _font(size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
