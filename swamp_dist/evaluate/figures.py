"""Figures of an evaluation as people read them: a line for a log, rows for a table. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from swamp_dist.evaluate.results import figure_heading, named_figures, splits_text
from swamp_dist.records import EvaluationResult, RetrievalMetrics


def figures_line(result: EvaluationResult) -> str:
    """`pair text->video R@1 37.40, R@5 68.00, R@10 80.40, MedR 2.0; pair video->text ...`"""
    parts = []
    for metrics in result.metrics.values():
        figures = ", ".join(f"{name} {value}" for name, value in shown_figures(metrics))
        parts.append(f"{metrics.relevance} {metrics.direction} {figures}")
    return "; ".join(parts)


def shown_figures(metrics: RetrievalMetrics) -> Iterator[tuple[str, str]]:
    """Heading and value of every figure that was computed, in the order of a table; percent except MedR."""
    for name, value in named_figures(metrics).items():
        yield figure_heading(name), f"{value:.{1 if name == 'median_rank' else 2}f}"


def figure_rows(result: EvaluationResult) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of an evaluation: a row per relevance and direction, chance's R@1 in the last column.

    Cells of figures that only other rows have are empty.
    """
    names = list(dict.fromkeys(name for m in result.metrics.values() for name, _ in shown_figures(m)))
    rows = []
    for key, metrics in result.metrics.items():
        known, chance = dict(shown_figures(metrics)), result.chance.get(key)
        by_chance = "" if chance is None else f"{chance.r_at_1:.2f}"
        rows.append(
            [f"{metrics.relevance} {metrics.direction}", *(known.get(n, "") for n in names), by_chance]
        )
    return [splits_text(result), *names, "R@1 by chance"], rows
