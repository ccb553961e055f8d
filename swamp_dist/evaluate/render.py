"""Result tables as text: one grid of strings, drawn by rich in a terminal or written as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swamp_dist.evaluate.intervals import Summary
from swamp_dist.evaluate.table import Comparison, ResultRow, ResultTable
from swamp_dist.printable import printable

if TYPE_CHECKING:
    from rich.table import Table as RichTable

MISSING = "-"
_MARKDOWN = re.compile(r"[\\`*|~$<]|!(?=\[)|\](?=[(\[:])|(?<!\w)_|_(?!\w)|&(?=#|\w+;)")
"""What Markdown takes for more than itself; brackets alone, as those of an interval, are none."""


@dataclass(frozen=True)
class Grid:
    """A drawn table: the first column is text, the others are figures."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def grids(table: ResultTable) -> tuple[Grid, ...]:
    """The figures, and below them the paired differences where a baseline was named."""
    header = ("", *table.headings, "n")
    marks = {note: f"[{i}]" for i, note in enumerate(dict.fromkeys(r.note for r in table.rows if r.note), 1)}
    lines = tuple(_result(row, table.metrics, marks.get(row.note, "")) for row in table.rows)
    notes = (*table.notes, *(f"{mark} {note}" for note, mark in marks.items()))
    figures = Grid(table.title, header, lines, notes)
    if not table.comparisons:
        return (figures,)
    heading = dict(zip(table.metrics, table.headings, strict=True))
    rows = tuple(_comparison(c, heading[c.metric]) for c in table.comparisons)
    header = ("", "minus", "metric", "difference", "sd", "95% t interval", "wins")
    return figures, Grid("Paired differences, run by run", header, rows, ())


def to_markdown(table: ResultTable) -> str:
    """The grids as Markdown, each with its heading and notes."""
    return "\n".join(_markdown(grid) for grid in grids(table))


def to_rich(table: ResultTable) -> list[RichTable]:
    """The grids as rich tables, for the console."""
    return [_rich(grid) for grid in grids(table)]


def _digits(metric: str) -> int:
    return 1 if metric.endswith("/median_rank") else 2


def _result(row: ResultRow, metrics: tuple[str, ...], mark: str) -> tuple[str, ...]:
    cells = [_cell(f, row, _digits(m)) for f, m in zip(row.figures, metrics, strict=True)]
    return (f"{row.label} {mark}".rstrip(), *cells, MISSING if row.runs is None else str(row.runs))


def _cell(figure: Summary | None, row: ResultRow, digits: int) -> str:
    if figure is None:
        return MISSING
    if row.published:
        return f"{figure.mean:g}"
    spread = "" if figure.sd is None else f" +- {figure.sd:.{digits}f}"
    partial = "" if row.runs in (None, figure.n) else f" (n = {figure.n})"
    return f"{figure.mean:.{digits}f}{spread}{partial}"


def _comparison(comparison: Comparison, heading: str) -> tuple[str, ...]:
    found, digits = comparison.difference, _digits(comparison.metric)
    if found is None:
        return (comparison.label, comparison.against, heading, *[MISSING] * 4)
    sd = MISSING if found.sd is None else f"{found.sd:.{digits}f}"
    known = found.low is not None and found.high is not None
    interval = f"[{found.low:+.{digits}f}, {found.high:+.{digits}f}]" if known else MISSING
    return (
        comparison.label,
        comparison.against,
        heading,
        f"{found.mean:+.{digits}f}",
        sd,
        interval,
        f"{comparison.wins}/{found.n}",
    )


def _markdown(grid: Grid) -> str:
    lines = [f"### {_as_written(grid.title)}", ""] if grid.title else []
    lines += [_markdown_row(map(_as_written, grid.header))]
    lines += [_markdown_row(("---", *["---:"] * (len(grid.header) - 1)))]
    lines += [_markdown_row(map(_as_written, row)) for row in grid.rows]
    return "\n".join([*lines, "", *(f"{_note(note)}  " for note in grid.notes), ""])


def _note(text: str) -> str:
    """A line of its own, whose first letter makes no list, quotation or heading."""
    return re.sub("^[-+>#=]", r"\\\g<0>", _as_written(text))


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _as_written(text: str) -> str:
    """Text that Markdown shows as it is: no link, no tag, no emphasis, no cell or line of its own."""
    return _MARKDOWN.sub(r"\\\g<0>", printable(text, one_line=True))


def _rich(grid: Grid) -> RichTable:
    from rich.table import Table

    from swamp_dist.console import block, cell

    drawn = Table(title=cell(grid.title) if grid.title else None, caption=block("\n".join(grid.notes)))
    for i, name in enumerate(grid.header):
        drawn.add_column(cell(name), justify="right" if i else "left")
    for row in grid.rows:
        drawn.add_row(*map(cell, row))
    return drawn
