"""Part of a table of results: the metrics that were asked for, in the order that was asked for. No torch."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import replace

from swamp_dist.errors import UserError
from swamp_dist.evaluate.metric_names import check_metric_name
from swamp_dist.evaluate.table import ResultRow, ResultTable

_LEAST_TELLING = ("r_at_5", "r_at_10", "hit_at_", "p_at_", "map_at_", "median_rank")
"""Beginnings of figures in the order in which a narrow table leaves them out; R@1 and mAP stay longest."""


def chosen_metrics(asked: Sequence[str], known: Sequence[str], where: str) -> tuple[str, ...]:
    """The known names that were asked for: whole ones, patterns (`*/r_at_1`) or figures alone (`r_at_1`).

    Raises:
        UserError: one that names nothing, with the names that are known.
    """
    found: dict[str, None] = {}
    for text in (part.strip() for each in asked for part in each.split(",") if part.strip()):
        pattern = text if "/" in text else f"*/{text}"
        names = fnmatch.filter(known, pattern)
        if not names:
            check_metric_name(text, known, where)
        found |= dict.fromkeys(names)
    return tuple(found)


def with_metrics(table: ResultTable, asked: Sequence[str]) -> ResultTable:
    """The table with these metrics alone, in their order. Raises UserError as `chosen_metrics`."""
    names = chosen_metrics(asked, table.metrics, "this table")
    return with_columns(table, [table.metrics.index(name) for name in names])


def with_columns(table: ResultTable, columns: Sequence[int]) -> ResultTable:
    """The table with these of its metrics, by their places."""
    names = [table.metrics[c] for c in columns]
    rows = tuple(replace(row, figures=tuple(row.figures[c] for c in columns)) for row in table.rows)
    kept = tuple(c for c in table.comparisons if c.metric in names)
    headings = tuple(table.headings[c] for c in columns)
    return replace(table, metrics=tuple(names), headings=headings, rows=rows, comparisons=kept)


def sorted_by(table: ResultTable, metric: str) -> ResultTable:
    """The table with its rows by a metric, the best first and those without it last.

    Raises:
        UserError: the table has no such metric, or several are meant.
    """
    names = chosen_metrics([metric], table.metrics, "this table")
    if len(names) != 1:
        raise UserError(f"--sort {metric}: expected one metric, found {', '.join(names)}")
    place, sign = table.metrics.index(names[0]), 1 if names[0].endswith("/median_rank") else -1

    def value(row: ResultRow) -> float:
        figure = row.figures[place]
        return math.inf if figure is None else sign * figure.mean

    return replace(table, rows=tuple(sorted(table.rows, key=value)))


def left_out_first(metrics: Sequence[str]) -> list[int]:
    """Places of the metrics in the order in which a narrow table does without them; all but the first."""
    figures = [name.rpartition("/")[2] for name in metrics]
    order = [
        c for start in _LEAST_TELLING for c in reversed(range(len(metrics))) if figures[c].startswith(start)
    ]
    order += [c for c in reversed(range(len(metrics)))]
    return [c for c in dict.fromkeys(order) if c != 0]
