"""SVG pictures of emoji by several artists, from packages of @iconify-json (icons.json, chars.json)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swamp_dist.errors import UserError
from swamp_dist.sources.packages import Package, fetch

ARTISTS = {
    "noto": Package(
        "npm",
        "@iconify-json/noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    ),
    "twemoji": Package(
        "npm",
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    ),
    "openmoji": Package(
        "npm",
        "@iconify-json/openmoji",
        "1.2.29",
        "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
    ),
    "fluent": Package(
        "npm",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "emojione": Package(
        "npm",
        "@iconify-json/emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    ),
}
WITHOUT_CODES = "emojione"
"""Its chars.json is empty. Its icons have the names that iconify gives to those of noto, by which they are
joined."""


def read_pictures(artists: Sequence[str], download: Path) -> Mapping[str, Mapping[str, str]]:
    """For each artist, the text of an SVG file by code points (lower-case hexadecimal, without FE0F)."""
    return {artist: _of_artist(artist, download) for artist in artists}


def read_set(folder: Path, codes: Mapping[str, str] | None = None) -> dict[str, str]:
    """SVG by code points of one unpacked set; `codes` (icon name by code points) stands in for its own.

    Raises:
        UserError: no icon belongs to a code point.
    """
    content = _read(folder / "icons.json")
    codes = read_codes(folder) if codes is None else codes
    found = {code: svg for code, name in codes.items() if (svg := _svg(content, name)) is not None}
    if not found:
        raise UserError(f"{folder}: no icon of icons.json belongs to a code point of chars.json")
    return found


def read_codes(folder: Path) -> dict[str, str]:
    """Icon name by code points."""
    codes = _read(folder / "chars.json")
    return {
        "-".join(part for part in code.split("-") if part != "fe0f"): name for code, name in codes.items()
    }


def _of_artist(artist: str, download: Path) -> dict[str, str]:
    folder = fetch(ARTISTS[artist], download) / "package"
    if artist != WITHOUT_CODES:
        return read_set(folder)
    return read_set(folder, read_codes(fetch(ARTISTS["noto"], download) / "package"))


def _svg(content: Mapping[str, Any], name: str) -> str | None:
    """A square picture with the icon in its middle; None for an icon that is absent or a turned copy of
    another."""
    alias = content.get("aliases", {}).get(name)
    if alias is not None and set(alias) == {"parent"}:
        name = alias["parent"]
    icon = content["icons"].get(name)
    if icon is None:
        return None
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", content.get("width", 16))
    height = icon.get("height", content.get("height", 16))
    side = max(width, height)
    box = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}">{icon["body"]}</svg>'
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
