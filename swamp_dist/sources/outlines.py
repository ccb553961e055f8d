"""Icons of Tabler in two styles: outlines are the sketches, filled shapes the photos; a class is a category.

Near twins are icons whose names are equal without numbers and without what an icon adds to another (`off`,
`plus`), and look-alikes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swamp_dist.config import OutlinesSource
from swamp_dist.errors import UserError
from swamp_dist.records import RawSplit
from swamp_dist.sources.class_names import normal_name
from swamp_dist.sources.drawn_classes import Thing, drawings_of, open_drawn
from swamp_dist.sources.packages import Package, fetch

TABLER = Package(
    "npm",
    "@tabler/icons",
    "3.52.0",
    "626620c7d42afd2f294fba167ce4653b5cb946336d186b4991c70b700e5616af",
)
STYLES = ("outline", "filled")
_ADDED = {"off", "plus", "minus", "x", "check", "up", "down", "left", "right"}


def open_splits(settings: OutlinesSource) -> Mapping[str, RawSplit]:
    """Splits in couples of outlines and filled icons; field `image` (PNG bytes). Downloads the package on the
    first call.

    Raises:
        UserError: the package cannot be had, or classes do not suffice.
    """
    package = fetch(TABLER, settings.download) / "package"
    things = read_things(package)
    sketches, photos = (
        {style: {thing.code: svg_text(package / "icons" / style / f"{thing.code}.svg") for thing in things}}
        for style in STYLES
    )
    drawings = drawings_of(things, sketches, photos, settings.min_concepts)
    return open_drawn(drawings, settings, (settings.test_classes, settings.validation_classes))


def item_fields(settings: OutlinesSource) -> frozenset[str]:
    """No field has several items."""
    return frozenset()


def read_things(folder: Path) -> list[Thing]:
    """Icons that have both styles, in the order of the package.

    Raises:
        UserError: there are none.
    """
    icons: Any = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    things = [
        Thing(name, name.replace("-", " "), normal_name(icon["category"]), (base_name(name),))
        for name, icon in icons.items()
        if icon["category"] and all(style in icon["styles"] for style in STYLES)
    ]
    if not things:
        raise UserError(f"{folder}/icons.json: no icon has the styles {', '.join(STYLES)}")
    return things


def base_name(name: str) -> str:
    """What an icon is drawn after: `battery-3` is a battery, `bell-off` a bell."""
    parts = [part for part in name.split("-") if part not in _ADDED and not part.isdecimal()]
    return "-".join(parts) or name


def svg_text(file: Path) -> str:
    """The icon as text.

    Raises:
        UserError: the file is absent.
    """
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; the package @tabler/icons has it there") from None
