from __future__ import annotations

import html
import json
import logging
import unicodedata
from io import StringIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swamp_dist.console import block, cell, open_console
from swamp_dist.printable import PrintableFormatter, html_text, printable

OBEYED = "\x1b[2J\x07\x08\r\x0b\x0c\x00\x7f\x9b31m\x85\u202e\u2066\u2028\u200b\ufeff\ud800\U000e0041"


def test_what_a_terminal_obeys_is_written_out() -> None:
    assert printable("a\x1b[2Jb\x9b1m\x7f\u202e") == "a\\u001b[2Jb\\u009b1m\\u007f\\u202e"
    assert printable("one\r\ntwo\tthree") == "one\ntwo\tthree"
    assert printable("one\ntwo\tthree", one_line=True) == "one\\ntwo\\tthree"
    assert printable("\U000e0041\ud800") == "\\udb40\\udc41\\ud800"


@pytest.mark.parametrize("text", ["plain", "Ärger 실험 😀👩‍🚀 नमस्ते", "[bold]x[/]", "C:\\new", "a\u00a0b"])
def test_text_without_control_characters_stays(text: str) -> None:
    assert printable(text) == text
    assert printable(text, one_line=True) == text


@given(st.text(st.characters(blacklist_categories=["Cn", "Co"]), max_size=60))
def test_no_control_character_is_left(text: str) -> None:
    cleaned = printable(text, one_line=True)
    assert not [c for c in cleaned if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert printable(cleaned, one_line=True) == cleaned


@example({"a tag": "\U000e0041", "half a pair": "\ud800", "deleted": "\x7f", "ESC": "\x1b[2J"})
@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3))
def test_json_stays_json(values: dict[str, str]) -> None:
    assert json.loads(printable(json.dumps(values, ensure_ascii=False))) == values


@pytest.mark.parametrize("terminal", [False, True])
def test_a_console_shows_strings_and_texts_as_they_are(terminal: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    console = open_console(width=400, terminal=terminal)
    console.file = StringIO()
    table = Table(title=f"[red]title{OBEYED}", caption=f":skull:{OBEYED}")
    table.add_column(f"[red]{OBEYED}")
    table.add_row(f"[link=x]{OBEYED}")
    table.add_row(Text(OBEYED))
    for each in (table, OBEYED, cell(OBEYED), block(OBEYED)):
        console.print(each)
    shown = console.file.getvalue()
    assert not set(OBEYED) & set(shown) - set("[2J31m") - ({"\x1b"} if terminal else set())
    assert "\x1b[2J" not in shown
    for kept in ("[red]title", "[link=x]", ":skull:", "\\u001b[2J"):
        assert kept in shown


def test_log_lines_and_traces_are_cleaned() -> None:
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logger = logging.Logger("hostile")
    logger.addHandler(handler)
    try:
        raise ValueError(OBEYED)
    except ValueError:
        logger.exception("said %s", OBEYED)
    assert not set(OBEYED) & set(stream.getvalue()) - set("[2J31m")


def test_a_page_shows_a_text_and_obeys_nothing_in_it() -> None:
    assert html_text("<script>alert('x')</script> & \"y\"\n\x1b[2J\u202e\0") == (
        "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;y&quot;\\n\\u001b[2J\\u202e\\u0000"
    )


@given(st.text(st.characters(blacklist_categories=["Cn", "Co"]), max_size=60))
def test_what_a_page_shows_is_the_printable_text(text: str) -> None:
    shown = html_text(text)
    assert not set("<>\"'\n") & set(shown)
    assert html.unescape(shown) == printable(text, one_line=True)
