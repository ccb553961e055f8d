"""What may stand on a screen, in a log or in a page: the one place that cleans text from files.

Names, reasons, captions and log lines come from files that others wrote. A terminal obeys control characters
in them: it can be cleared, renamed or made to show what is not there.
"""

from __future__ import annotations

import html
import io
import logging
import re
import sys
import traceback
from typing import TextIO

_OBEYED = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f"  # control characters but line end and tab; \x9b begins a sequence like ESC [
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # these turn the direction of what follows
    "\u2028\u2029"  # line ends to some programs and not to others
    "\u00ad\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"  # invisible
    "\ud800-\udfff\U000e0000-\U000e007f]"  # no characters at all; invisible letters
)
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_LINES = {"\n": "\\n", "\t": "\\t"}


def printable(text: str, *, one_line: bool = False) -> str:
    """The text with everything that a terminal would obey written out, ESC as \\u001b for example.

    Line ends and tabs stay, unless `one_line`: then no text can look like a line of its own. JSON stays
    JSON of the same value.
    """
    if text.isascii() and text.isprintable():
        return text
    cleaned = _OBEYED.sub(_written_out, text.replace("\r\n", "\n"))
    return re.sub("[\n\t]", lambda found: _LINES[found.group()], cleaned) if one_line else cleaned


def html_text(text: str) -> str:
    """One line of a text for a page, between tags and inside quoted values: it makes no tag and no entity,
    and holds no character that turns the direction or that nobody sees."""
    return html.escape(printable(text, one_line=True), quote=True)


def _written_out(found: re.Match[str]) -> str:
    """As JSON writes it: a character above U+FFFF as a pair."""
    units = found.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n : n + 2].hex()}" for n in range(0, len(units), 2))


class PrintableFormatter(logging.Formatter):
    """Log lines that a terminal shows and never obeys, traces included."""

    def format(self, record: logging.LogRecord) -> str:
        """As every formatter, cleaned."""
        return printable(super().format(record))


def log_lines_to(
    stream: TextIO | None, level: int, line: str = "%(message)s", time: str | None = None
) -> None:
    """Let a process without a log file of its own say what is logged, unless something listens already.

    Args:
        stream: None = stderr.
        line: format of a line.
        time: format of `%(asctime)s` in it.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PrintableFormatter(line, time))
    logging.basicConfig(level=level, handlers=[handler])


def write_all_characters() -> None:
    """Let stdout and stderr write what their terminal has no character for in escapes, not in an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def current_trace() -> str:
    """The exception that is being handled, as Python prints it, cleaned."""
    return printable(traceback.format_exc())


def control_problem(text: str) -> str | None:
    """What is wrong with a text that must not hold control characters; None where it holds none."""
    found = _CONTROL.search(text)
    if found is None:
        return None
    return f"expected text without control characters, found the character U+{ord(found.group()):04X}"
