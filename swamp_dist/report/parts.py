"""Pieces of the report's page: sections, tables, notes. All text goes through `html_text` here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swamp_dist.evaluate.render import Grid
from swamp_dist.printable import html_text


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    id: str
    """Of its anchor; made here, never of a file."""
    title: str
    body: str
    """HTML."""

    def html(self) -> str:
        """As it stands in the page."""
        return (
            f'<section class="part" id="{self.id}" aria-labelledby="h-{self.id}">'
            f'<h2 id="h-{self.id}">{html_text(self.title)}</h2>\n{self.body}</section>\n'
        )


def table(grid: Grid, is_text: bool = False) -> str:
    """A table whose first column names its rows; wide ones move sideways in a frame of their own.

    Args:
        is_text: the other columns hold words, not figures.
    """
    said = grid.title or "table"
    head = "".join(f'<th scope="col">{_heading(name)}</th>' for name in grid.header)
    rows = "".join(_row(row) for row in grid.rows)
    name = "words" if is_text else "figures"
    caption = f"<h3>{html_text(grid.title)}</h3>\n" if grid.title else ""
    return (
        f'{caption}<div class="wide" tabindex="0" role="region" aria-label="{html_text(said)}">'
        f'<table class="{name}"><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n'
        f"{notes(grid.notes)}"
    )


def words(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of words; empty where there is no row."""
    found = tuple(tuple(row) for row in rows)
    return table(Grid(title, tuple(header), found, ()), is_text=True) if found else ""


def notes(lines: Iterable[str]) -> str:
    """A paragraph per line."""
    return "".join(f'<p class="note">{html_text(line)}</p>\n' for line in lines)


def folded(summary: str, body: str) -> str:
    """What is shown on request; empty where there is nothing."""
    return f"<details><summary>{html_text(summary)}</summary>\n{body}</details>\n" if body else ""


def _heading(name: str) -> str:
    """With an arrow that a narrow column does not break."""
    return html_text(name).replace("-&gt;", "&rarr;")


def _row(row: Sequence[str]) -> str:
    first, *others = row
    cells = "".join(f"<td>{html_text(text)}</td>" for text in others)
    return f'<tr><th scope="row">{html_text(first)}</th>{cells}</tr>\n'
