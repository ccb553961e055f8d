"""Drawings of emoji and icons of Tabler: small packages in the published layouts, made where they would be
unpacked."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from swamp_dist.config import DrawingsSource, OutlinesSource
from swamp_dist.errors import UserError
from swamp_dist.sources import drawings, emoji, emoji_pictures, outlines
from swamp_dist.sources.packages import MARKER, Package

CLASSES = 6
CODES = [f"1f4{number:02x}" for number in range(2 * CLASSES)]
"""Two things of every class."""
SPLITS = ["train", "train_photos", "validation", "validation_photos", "test", "test_photos"]


def put(package: Package, downloads: Path, files: Mapping[str, object]) -> None:
    folder = downloads / package.folder
    for name, content in files.items():
        path = folder / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    (folder / MARKER).write_text(json.dumps({"archive_sha256": package.sha256}))


def svg(number: int, fill: str) -> str:
    at, across = number % 4 * 9 + 2, number // 4 * 12 + 2
    return f'<rect x="{at}" y="{across}" width="7" height="9" fill="{fill}"/>'


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """Twelve things in six subgroups, a flag, two hands in black and one in colour."""
    entries = [
        {"label": f"thing {i}", "emoji": chr(int(code, 16)), "group": 0, "subgroup": i // 2, "tags": []}
        for i, code in enumerate(CODES)
    ]
    entries.append({"label": "flag: black", "emoji": "🏴", "group": 1, "subgroup": 9, "tags": []})
    meta = {
        "groups": {"0": "objects", "1": "flags"},
        "subgroups": {str(i): f"some-kind {i}" for i in range(10)},
    }
    put(emoji.NAMES, tmp_path, {"en/data.json": entries, "meta/groups.json": meta})
    whole = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40">{}</svg>'
    black = {
        f"black/svg/{code.upper()}-FE0F.svg": whole.format(svg(i, "#000")) for i, code in enumerate(CODES)
    }
    put(drawings.OPENMOJI, tmp_path, black)
    names = {code: f"icon{i}" for i, code in enumerate(CODES)}
    for package, fill, codes in (
        (drawings.MONOTONE, "currentColor", {}),
        (emoji_pictures.ARTISTS["noto"], "#f00", names),
    ):
        icons = {f"icon{i}": {"body": svg(i, fill)} for i in range(len(CODES))}
        put(
            package,
            tmp_path,
            {"icons.json": {"icons": icons, "width": 40, "height": 40}, "chars.json": codes},
        )
    return tmp_path


def settings(downloads: Path, **options: Any) -> DrawingsSource:
    chosen = {
        "sketches": ("openmoji_black", "emojione_monotone"),
        "photos": ("noto",),
        "min_concepts": 2,
        "test_classes": 2,
        "validation_classes": 1,
        **options,
    }
    return DrawingsSource(download=downloads, **chosen)


def test_hands_are_joined_by_code_point_and_classes_divided(downloads: Path) -> None:
    pytest.importorskip("resvg_py")
    splits = drawings.open_splits(settings(downloads))
    assert list(splits) == SPLITS
    assert [len(split.keys) for split in splits.values()] == [12, 6, 4, 2, 8, 4]
    names = splits["test"].class_names
    assert names == tuple(f"some_kind_{i}" for i in range(CLASSES)), "flags are left out"
    labels = {name: {split.read(i).label for i in range(len(split.keys))} for name, split in splits.items()}
    for side in ("train", "validation", "test"):
        assert labels[side] == labels[f"{side}_photos"]
    assert sorted(labels["train"] | labels["validation"] | labels["test"]) == list(range(CLASSES))
    assert len(labels["train"]) + len(labels["validation"]) + len(labels["test"]) == CLASSES
    for name, is_grey in (("test", True), ("test_photos", False)):
        sample = splits[name].read(0)
        picture = sample.fields["image"]
        assert isinstance(picture, bytes)
        pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
        assert pixels.shape == (64, 64, 3)
        assert (pixels < 255).any()
        assert (pixels[..., 0] == pixels[..., 1]).all() == is_grey
        assert sample.text["label"] == names[sample.label]
    assert drawings.item_fields(settings(downloads)) == frozenset()


def test_a_held_out_hand_draws_all_of_test_and_nothing_else(downloads: Path) -> None:
    pytest.importorskip("resvg_py")
    splits = drawings.open_splits(settings(downloads, held_out_hand="emojione_monotone"))
    hands = {name: {key.split("-")[0] for key in split.keys} for name, split in splits.items()}  # noqa: SIM118
    assert hands["test"] == {"emojione_monotone"}
    assert hands["train"] == hands["validation"] == {"openmoji_black"}
    with pytest.raises(ValidationError, match="expected one of at least two hands"):
        settings(downloads, sketches=("openmoji_black",), held_out_hand="openmoji_black")
    with pytest.raises(ValidationError, match="expected every hand once"):
        settings(downloads, photos=("noto", "noto"))


def test_too_few_classes_are_refused(downloads: Path) -> None:
    pytest.importorskip("resvg_py")
    with pytest.raises(UserError, match=r"6 classes are too few for test_classes = 4"):
        drawings.open_splits(settings(downloads, test_classes=4))


def test_outlines_and_filled_icons_of_tabler(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    names = [f"thing{chr(97 + i)}" for i in range(8)]
    icons: dict[str, object] = {
        name: {"category": f"Kind {i // 2}", "styles": {"outline": {}, "filled": {}}}
        for i, name in enumerate(names)
    }
    icons["alone"] = {"category": "Kind 0", "styles": {"outline": {}}}
    files: dict[str, object] = {"icons.json": icons}
    for i, name in enumerate(names):
        for style in outlines.STYLES:
            drawn = svg(i, "none" if style == "outline" else "currentColor")
            files[f"icons/{style}/{name}.svg"] = (
                '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40" stroke="currentColor">'
                f"{drawn}</svg>"
            )
    put(outlines.TABLER, tmp_path, files)
    options = {"min_concepts": 2, "test_classes": 1, "validation_classes": 1}
    splits = outlines.open_splits(OutlinesSource(download=tmp_path, **options))
    assert [len(split.keys) for split in splits.values()] == [4, 4, 2, 2, 2, 2]
    assert splits["train"].class_names == ("kind_0", "kind_1", "kind_2", "kind_3")
    assert {key.split("-")[0] for key in splits["test"].keys} == {"outline"}  # noqa: SIM118
    (tmp_path / outlines.TABLER.folder / "package/icons/filled/thinga.svg").unlink()
    with pytest.raises(UserError, match=r"filled/thinga.svg: No such file"):
        outlines.open_splits(OutlinesSource(download=tmp_path, **options))


@pytest.mark.parametrize(
    ("name", "base"),
    [("battery-3", "battery"), ("bell-off", "bell"), ("x", "x"), ("car-garage", "car-garage")],
)
def test_what_an_icon_is_drawn_after(name: str, base: str) -> None:
    assert outlines.base_name(name) == base
