"""Where rich draws: consoles and texts that show what files say, and never obey it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from swamp_dist.printable import printable


class _PrintableConsole(Console):
    """Draws strings as they are, without markup; what nobody cleaned before is cleaned here."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As every console; its own control codes pass, those inside texts do not."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


def open_console(*, error: bool = False, width: int | None = None, terminal: bool | None = None) -> Console:
    """A console on stdout, or on stderr with `error`.

    Args:
        width: columns; None asks the terminal.
        terminal: whether it is one; None finds out.
    """
    options: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
    return _PrintableConsole(stderr=error, width=width, force_terminal=terminal, **options)


def columns_that_fit(
    widths: Sequence[int], room: int | None, gap: int, droppable: Sequence[int]
) -> list[int]:
    """Which columns of a table to show, in their order, so that it fits.

    Args:
        widths: of all columns, in characters.
        room: characters of a line; None = any number.
        gap: characters between two columns.
        droppable: columns that may be left out, those first that say least.
    """
    shown = list(range(len(widths)))
    for column in droppable:
        if room is None or sum(widths[c] + gap for c in shown) <= room:  # rich pads the last one too
            break
        shown.remove(column)
    return shown


def cell(text: str, style: str = "") -> Text:
    """Text of one line: a cell, a title, a reason."""
    return Text(printable(text, one_line=True), style)


def block(text: str, style: str = "") -> Text:
    """Text that may have several lines."""
    return Text(printable(text), style)
