"""The frame of a page: what a browser may run, and pictures that stand in it once."""

from __future__ import annotations

import base64
import hashlib
import re

from swamp_dist.pages.page import Page, read_part
from swamp_dist.pages.pictures import PagePictures

EVIL = "</title><script>alert(1)</script>\" ' & \x1b[2J\u202e"


def test_a_page_runs_what_stands_in_it_alone_and_its_title_is_text() -> None:
    page = Page(EVIL, "b{color:red}\n", "'use strict';\n", "<main>all</main>").html()
    assert page.count("<script>") == page.count("</script>") == 1
    assert "\x1b" not in page
    assert "\u202e" not in page
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in page
    assert page.index("prefers-color-scheme: dark") < page.index("b{color:red}")


def test_a_picture_stands_in_a_page_once_however_often_it_is_shown() -> None:
    pictures = PagePictures()
    first, second, again = (pictures.span(f"data:image/png;base64,{n}", EVIL) for n in ("AA", "BB", "AA"))
    assert first == again != second
    assert "<script" not in first
    assert pictures.rules().count("url(") == 2


def test_styles_and_scripts_are_read_from_beside_their_modules() -> None:
    assert ".cards" in read_part("prototypes", "gallery.css")
