"""The page and the sheet of runs that were made up."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from swamp_dist import UserError, load_model
from swamp_dist.config import ImageSettings
from swamp_dist.data.images import BUILD_LIMITS
from swamp_dist.data.reader import open_reader
from swamp_dist.prototypes.cards import card_pictures
from swamp_dist.prototypes.gallery import Gallery, build_gallery
from swamp_dist.prototypes.sheet import draw_sheet
from swamp_dist.prototypes.shown import shown_sides, told
from swamp_dist.prototypes.study import Study, study
from swamp_dist.prototypes.thumbnails import SIDE, encode_thumbnail, read_pictures, small_picture
from tests.data.image_sets import encode, smooth
from tests.pages.parsed import EVIL, Parsed
from tests.prototypes.made import FEATURES, PICTURES, feature_set, picture_set, run_over


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("gallery")
    run = run_over(picture_set(folder / "set"), folder / "run", PICTURES, ("image", "text"), 5)
    return study(load_model(run, device="cpu"), "test")


def page_of(found: Study, most_bytes: int = 5_000_000, per_card: int = 3) -> Gallery:
    return build_gallery(found, card_pictures(found, per_card, "nearest"), per_card, "nearest", most_bytes)


def test_every_prototype_with_items_has_a_card_that_says_what_it_leaves_out(found: Study) -> None:
    page = page_of(found)
    parsed = Parsed(page.html)
    numbers = {attributes["id"] for attributes in parsed.named("article")}
    assert numbers == {f"p{each.number:04d}" for each in found.used}
    assert (page.per_card, page.cards) == (3, len(found.used))
    cards = page.html.split("<article ")[1:]
    for card in cards:
        (number,) = re.findall(r'id="p(\d+)"', card)
        figures = found.prototypes[int(number)]
        assert f'data-size="{figures.items}"' in card
        count = figures.sizes[0]
        of = "" if not count else f"all {count}<" if count <= 3 else f"3 of {count} shown"
        assert f"image: {of}" in card or not count
        assert card.count('role="img"') == min(3, count)


def test_pictures_stand_in_the_page_once_and_are_small(found: Study) -> None:
    page = page_of(found, per_card=50).html
    uris = re.findall(r"url\(data:image/(?:png|jpeg);base64,([^)]+)\)", page)
    assert len(uris) == len(set(uris)) == 24
    for uri in uris:
        with Image.open(io.BytesIO(base64.b64decode(uri))) as picture:
            assert max(picture.size) == SIDE


def test_the_page_asks_for_nothing_and_runs_only_what_it_names(found: Study) -> None:
    page = page_of(found).html
    parsed = Parsed(page)
    links = [value for _, attributes in parsed.tags for name, value in attributes.items()
             if name in ("href", "src", "action", "srcset")]  # fmt: skip
    assert links
    assert all(link is not None and link.startswith("#") for link in links)
    assert "http" not in page.replace("http-equiv", "")
    (policy,) = [m["content"] for m in parsed.named("meta") if m.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_texts_of_a_set_do_no_harm(tmp_path: Path) -> None:
    manifest = picture_set(tmp_path / "set", 6, [EVIL])
    run = run_over(manifest, tmp_path / "run", PICTURES, ("image", "text"), 2)
    page = page_of(study(load_model(run, device="cpu"), "test")).html
    parsed = Parsed(page)
    assert len(parsed.named("script")) == len(parsed.named("style")) == 1
    assert parsed.named("img") == []
    assert not [a for _, attributes in parsed.tags for a in attributes if a.startswith("on")]
    assert "\\u001b[2J\\u202e\\u0000" in parsed.said
    assert not set("\x1b\u202e\0") & set(page)


def test_a_page_that_is_too_large_shows_less_and_says_so(found: Study) -> None:
    whole = page_of(found)
    less = page_of(found, len(whole.html.encode()) - 1)
    assert less.per_card == 2
    assert len(less.html.encode()) < len(whole.html.encode())
    assert "3 pictures were asked for; fewer are shown" in less.html
    few = page_of(found, 1)
    assert (few.per_card, few.cards) == (0, 1)
    assert f"1 of {len(found.used)} prototypes have a card" in few.html


def test_the_highest_scores_come_first_and_equal_texts_once(found: Study) -> None:
    texts = found.texts.items[1]
    assert texts is not None
    for each in found.used:
        pictures, told_items = shown_sides(found, each.number, "nearest")
        scores = [float(found.sides[0].score[item]) for item in pictures.items]
        assert scores == sorted(scores, reverse=True)
        said = [texts[item] for item in told_items.items]
        distinct = len(set(said))
        assert len(set(said[:distinct])) == distinct
        drawn = shown_sides(found, each.number, "random")
        assert sorted(drawn[0].items) == sorted(pictures.items)
        assert shown_sides(found, each.number, "random") == drawn


@pytest.mark.parametrize("text", [True, False], ids=["captions", "keys"])
def test_features_are_shown_by_captions_or_keys(tmp_path: Path, text: bool) -> None:
    run = run_over(feature_set(tmp_path / "set", text), tmp_path / "run", FEATURES, ("a", "b"), 3)
    found = study(load_model(run, device="cpu"), "test")
    shown = told(found, 0, 4)
    key = found.keys[4]
    assert shown == (found.texts.entries[4][0] if text else key)
    page = page_of(found).html
    assert "somebody flies a" in page if text else ">clip" in page
    assert 'role="img"' not in page
    assert draw_sheet(found, "nearest").startswith(b"\x89PNG")


def test_the_sheet_is_a_picture_of_the_same_bytes(found: Study) -> None:
    sheet = draw_sheet(found, "nearest")
    assert sheet == draw_sheet(found, "nearest")
    with Image.open(io.BytesIO(sheet)) as picture:
        colours = picture.convert("RGB").getcolors(2**20)
    assert colours is not None
    assert len(colours) > 100


def test_drawings_become_png_and_photographs_jpeg() -> None:
    drawing = Image.new("RGB", (300, 200), "white")
    drawing.paste("navy", (20, 20, 120, 90))
    flat = encode_thumbnail(small_picture(encode(drawing, "PNG"), BUILD_LIMITS))
    assert (flat.mime, flat.width, flat.height) == ("image/png", 96, 64)
    photograph = encode_thumbnail(small_picture(encode(smooth(0, 200, 300), "JPEG"), BUILD_LIMITS))
    assert (photograph.mime, photograph.width, photograph.height) == ("image/jpeg", 64, 96)
    assert photograph.uri.startswith("data:image/jpeg;base64,/9j/")


def test_a_picture_beyond_the_limits_names_its_entry(found: Study) -> None:
    reader = open_reader(found.manifest, "test", ["image"])
    with pytest.raises(UserError, match=r"entry 'key-01\d\d': field 'image': .*data.images.max_pixels"):
        read_pictures(reader, "image", [0], ImageSettings(max_pixels=100))
