"""The report in a browser: every width and scheme, no request, search, sorting, lines that hide, keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.records import Alarm
from swamp_dist.report.build import Asked, build_report
from swamp_dist.report.subject import open_subject
from tests.pages.browser import CHROMIUM, Page, open_browser
from tests.pages.parsed import EVIL
from tests.prototypes.made import PICTURES, picture_set, run_over
from tests.report.made import finished, thirty

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium found (chromium, chromium-browser, google-chrome)"
    ),
]
WINDOWS = ((1280, False), (1280, True), (390, False), (390, True))
ROWS = "[...document.querySelectorAll('#cost tbody tr')].filter(row => row.offsetParent !== null)"


def write(source: Path, out: Path, **asked: bool) -> Path:
    out.write_text(build_report(open_subject(source, None), Asked("swamp report RUN", **asked)).html)
    return out


def look(page: Page, file: Path, shots: Path) -> None:
    """Open the file in every window, keep a picture of each part, and find nothing asked or complained of."""
    for width, dark in WINDOWS:
        page.open(file, width, 1000, dark)
        for part in page.value("[...document.querySelectorAll('section.part')].map(part => part.id)"):
            page.value(f"document.getElementById('{part}').scrollIntoView()")
            page.screenshot(shots / f"{file.stem}-{width}-{'dark' if dark else 'light'}-{part}.png")
        assert page.value("document.documentElement.scrollWidth") <= width
        asked = [
            event["params"]["request"]["url"]
            for event in page.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
        said = [e for e in page.events if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
        assert said == []
        background = page.value("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(22, 24, 26)") == dark


def test_a_report_of_thirty_runs_is_searched_sorted_and_used_by_keyboard(tmp_path: Path) -> None:
    file = write(thirty(tmp_path / "runs", 200), tmp_path / "thirty.html")
    with open_browser(tmp_path / "profile") as page:
        look(page, file, tmp_path)
        assert page.value(f"{ROWS}.length") == 30
        page.press("/", "/")
        assert page.value("document.activeElement.id") == "find"
        page.type("seed-1/prototypes-3")
        assert page.value(f"{ROWS}.length") == 1
        assert page.value("document.getElementById('count').value").startswith("4 of ") or page.value(
            "document.getElementById('count').value"
        )
        page.press("Escape")
        assert page.value(f"{ROWS}.length") == 30

        column = "[...document.querySelectorAll('#cost tbody tr')].map(row => row.cells[8].textContent)"
        page.value("document.querySelectorAll('#cost thead button')[8].focus()")
        page.press("Enter", "\r")
        assert page.value(f"{column}[0]") == page.value(f"{column}[2]") == "1.4 MiB*"
        assert page.value("document.querySelectorAll('#cost thead th')[8].ariaSort") == "descending"
        page.press("Enter", "\r")
        assert page.value(f"{column}[0]").endswith("KiB*")

        lines = "[...document.querySelectorAll('g[data-line=\"2\"]')].filter(g => g.getClientRects().length)"
        before = page.value(f"{lines}.length")
        assert before > 3
        page.value("document.querySelectorAll('button.toggle')[2].focus()")
        page.press("Enter", "\r")
        assert page.value(f"{lines}.length") == 0
        page.press("Enter", "\r")
        assert page.value(f"{lines}.length") == before


def test_a_report_of_one_run_with_examples_and_hostile_texts_runs_nothing_of_them(tmp_path: Path) -> None:
    data = picture_set(tmp_path / "set", 18, ["a dog on a table", "the bus", EVIL])
    run = run_over(data, tmp_path / "run", PICTURES, ("image", "text"), 6)
    file = write(run, tmp_path / "one.html", examples=True, prototypes=True)
    alarm = Alarm("ratio", EVIL, 7, 12, None, 1)
    evil = write(
        finished(tmp_path / "evil", alarms=(alarm,), provenance={EVIL: EVIL}).path, tmp_path / "evil.html"
    )
    with open_browser(tmp_path / "profile") as page:
        for each in (file, evil):
            look(page, each, tmp_path)
            assert page.value("document.title").endswith(": report of a run")
            assert page.value("document.querySelectorAll('script').length") == 1
        page.open(file, 1280, 900, False)
        shown = page.value(
            "getComputedStyle(document.querySelector('.query .pictures span')).backgroundImage"
        )
        assert shown.startswith('url("data:image/')
