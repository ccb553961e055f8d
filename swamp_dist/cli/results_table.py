"""Tables of results for people and programs: what fits a terminal, JSON, CSV, Markdown."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from rich.console import Console, RenderableType
from rich.console import Group as Stack
from rich.table import Table

from swamp_dist.console import block, cell, columns_that_fit
from swamp_dist.evaluate.choose import left_out_first, with_columns
from swamp_dist.evaluate.render import Grid, grids, to_rich
from swamp_dist.evaluate.table import ResultTable
from swamp_dist.monitor.overview import common_folder

_GAP = 2


def fitted(table: ResultTable, console: Console) -> RenderableType:
    """The table as its console can show it: names of rows are never cut, metrics are left out before.

    In a pipe, and where a line has room for all, every column is there.
    """
    figures = grids(table)[0]
    whole = sum(max(map(len, column)) + 3 for column in _columns(figures)) + 1
    if not console.is_terminal or whole <= console.width:
        return Stack(*to_rich(table))
    room, folder = console.width, common_folder([row.label for row in table.rows])
    widths = [max(map(len, [*heading.split(), "", *cells])) for heading, *cells in _columns(figures)]
    widths[0] = max((len(row[0].removeprefix(folder)) for row in figures.rows), default=0)
    places = columns_that_fit(widths, room, _GAP, [c + 1 for c in left_out_first(table.metrics)])
    shown = [c - 1 for c in places if 0 < c <= len(table.metrics)]
    figures, *others = grids(with_columns(table, shown))
    told = [f"all in {folder}"] if folder else []
    left_out = [name for c, name in enumerate(table.metrics) if c not in shown]
    if left_out:
        told.append(f"left out for want of room: {', '.join(left_out)} (--metrics chooses, --csv has all)")
    drawn = _drawn(figures, folder, [min(widths[place], room) for place in places])
    parts: list[RenderableType] = [drawn, *(block(note) for note in (*told, *figures.notes))]
    for grid in others:
        parts += ["", *_differences(grid, folder, room)]
    return Stack(*parts)


def to_json(tables: Sequence[ResultTable]) -> str:
    """Every figure with its spread, by metric."""
    return json.dumps([_values(table) for table in tables], indent=1)


def to_csv(tables: Sequence[ResultTable]) -> str:
    """A line per row; of each metric its mean and, where there are several runs, sample deviation."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for table in tables:
        writer.writerow(["row", "runs", *(f"{m}{end}" for m in table.metrics for end in ("", " sd"))])
        for row in table.rows:
            figures = [x for f in row.figures for x in ((None, None) if f is None else (f.mean, f.sd))]
            runs = "" if row.runs is None else row.runs
            writer.writerow([row.label, runs, *("" if x is None else repr(x) for x in figures)])
    return out.getvalue()


def _values(table: ResultTable) -> Mapping[str, Any]:
    return {
        "title": table.title,
        "metrics": list(table.metrics),
        "rows": [
            {
                "row": row.label,
                "runs": row.runs,
                "figures": {
                    metric: asdict(figure)
                    for metric, figure in zip(table.metrics, row.figures, strict=True)
                    if figure is not None
                },
            }
            for row in table.rows
        ],
        "comparisons": [asdict(comparison) for comparison in table.comparisons],
        "notes": list(table.notes),
    }


def _columns(grid: Grid) -> list[tuple[str, ...]]:
    return list(zip(grid.header, *grid.rows, strict=True))


def _drawn(grid: Grid, folder: str, widths: Sequence[int]) -> Table:
    title = cell(grid.title) if grid.title else None
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for place, (name, width) in enumerate(zip(grid.header, widths, strict=True)):
        side: Literal["left", "right"] = "right" if place else "left"
        drawn.add_column(cell(name), justify=side, overflow="fold", vertical="bottom", width=width)
    for row in grid.rows:
        drawn.add_row(*map(cell, (row[0].removeprefix(folder), *row[1:])))
    return drawn


def _differences(grid: Grid, folder: str, room: int) -> list[RenderableType]:
    """Paired differences: a table where there is room, else lines below the names of both rows."""
    rows = tuple((row[0].removeprefix(folder), row[1].removeprefix(folder), *row[2:]) for row in grid.rows)
    short = Grid(grid.title, grid.header, rows, grid.notes)
    widths = [max(map(len, column)) for column in _columns(short)]
    if sum(width + _GAP for width in widths) <= room:
        return [_drawn(short, "", widths)]
    parts: list[RenderableType] = [cell(grid.title)]
    for (label, against), lines in itertools.groupby(rows, key=lambda row: row[:2]):
        parts.append(block(f"{label} minus {against}"))
        parts += [block(f"  {x[2]}: {x[3]}, sd {x[4]}, interval {x[5]}, wins {x[6]}") for x in lines]
    return parts
