"""The gallery in a browser: search, order, keyboard, sizes of window, both colour schemes, no request."""

from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist import load_model
from swamp_dist.prototypes.files import write_pictures
from swamp_dist.prototypes.study import study
from tests.pages.browser import CHROMIUM, open_browser
from tests.pages.parsed import EVIL
from tests.prototypes.made import PICTURES, THINGS, picture_set, run_over

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium found (chromium, chromium-browser, google-chrome)"
    ),
]
VISIBLE = "[...document.querySelectorAll('article')].filter(card => card.offsetParent !== null)"


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    texts = [f"a {thing} of the test" for thing in THINGS] + [EVIL]
    run = run_over(picture_set(tmp_path / "set", 18, texts), tmp_path / "run", PICTURES, ("image", "text"), 6)
    found = study(load_model(run, device="cpu"), "test")
    page, _ = write_pictures(found, tmp_path, 4, "nearest")
    return page


@pytest.mark.timeout(600)
def test_the_page_works_by_keyboard_at_every_size_and_asks_for_nothing(gallery: Path, tmp_path: Path) -> None:
    with open_browser(tmp_path / "profile") as page:
        for width, dark in ((1280, False), (1280, True), (390, False), (390, True)):
            page.open(gallery, width, 900, dark)
            page.screenshot(tmp_path / f"{width}-{'dark' if dark else 'light'}.png")
            assert page.value("document.documentElement.scrollWidth") <= width
            assert page.value("document.title") == "Prototypes of made on test"
            asked = [
                event["params"]["request"]["url"]
                for event in page.events
                if event.get("method") == "Network.requestWillBeSent"
            ]
            assert [url for url in asked if not url.startswith("data:")] == [gallery.as_uri()]
            said = [
                e for e in page.events if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")
            ]
            assert said == []
            background = page.value("getComputedStyle(document.body).backgroundColor")
            assert (background == "rgb(22, 24, 26)") == dark
            picture = page.value("getComputedStyle(document.querySelector('.pictures span')).backgroundImage")
            assert picture.startswith('url("data:image/')

        cards = page.value(f"{VISIBLE}.length")
        assert cards > 1
        page.press("/", "/")
        assert page.value("document.activeElement.id") == "find"
        page.type("no such word")
        assert page.value(f"{VISIBLE}.length") == 0
        assert page.value("document.getElementById('count').value") == f"0 of {cards} cards"
        page.press("Escape")
        assert page.value(f"{VISIBLE}.length") == cards
        page.value("sort.value = 'size'; sort.dispatchEvent(new Event('change'))")
        sizes = page.value(f"{VISIBLE}.map(card => Number(card.dataset.size))")
        assert sizes == sorted(sizes, reverse=True)
        assert page.value("document.querySelectorAll('section.group:not([hidden])').length") == 0
        page.value("sort.value = 'group'; sort.dispatchEvent(new Event('change'))")
        assert page.value("document.querySelectorAll('section.group article').length") == cards
