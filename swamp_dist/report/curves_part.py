"""The curves of a report: of one run all that it logged, of several what they follow, a colour per side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from swamp_dist.pipelines.compare import RunComparison, followed
from swamp_dist.printable import html_text
from swamp_dist.report.chart import COLOURS, DASHES, Chart, Line, chart_svg, key_svg
from swamp_dist.report.curves import mean_of, thinned
from swamp_dist.report.facts import RunFacts
from swamp_dist.report.parts import Section, notes

_ALSO = (
    "loss/contrastive",
    "loss/swamp",
    "swamp/effective_ratio",
    "swamp/target_entropy",
    "optim/grad_norm",
)
"""Tags of several runs that are drawn besides those that the runs follow."""
_FIGURES = ("r_at_1", "r_at_5", "r_at_10", "map")
_SHORT = {"a_to_b": "a to b", "b_to_a": "b to a"}
_MOST_POINTS = 40_000
"""Of all lines of a report together."""
_LEAST = 16
"""Points of a line, however many lines there are."""


def curves_part(runs: Sequence[RunFacts], compared: RunComparison | None, most: int) -> Section | None:
    """None where no run has logged two steps.

    Args:
        most: points of a line at most.
    """
    body = _of_one(runs[0], most) if len(runs) == 1 else _of_several(runs, compared, most)
    return Section("curves", "Curves", body) if body else None


def _of_one(run: RunFacts, most: int) -> str:
    tags = {tag: points for tag, points in run.tags.items() if len(points) > 1}
    charts = []
    for title, named in _charts_of(tags).items():
        lines = [Line(thinned(tags[tag], most), i, label) for i, (tag, label) in enumerate(named)]
        charts.append(Chart(title, "step", lines, has_legend=len(lines) > 1))
    return _drawn(charts)


def _charts_of(tags: Mapping[str, object]) -> dict[str, list[tuple[str, str]]]:
    """Title of a chart -> its tags and what their lines are called: losses together, and the figures of a
    validation."""
    found: dict[str, list[tuple[str, str]]] = {}
    for tag in sorted(tags, key=lambda tag: (not tag.startswith("loss/"), not tag.startswith("retrieval/"))):
        part, *names = tag.split("/")
        if part == "loss":
            found.setdefault("loss", []).append((tag, "/".join(names)))
        elif part == "retrieval" and len(names) == 4 and names[3] in _FIGURES:
            split, relevance, way, figure = names
            title = f"{split}, {relevance} relevance, percent"
            found.setdefault(title, []).append((tag, f"{_SHORT.get(way, way)} {figure}"))
        elif part == "retrieval" and names[-1] != "median_rank":
            continue  # further cut-offs would double the page
        else:
            found[tag] = [(tag, tag)]
    return found


def _of_several(runs: Sequence[RunFacts], compared: RunComparison | None, most: int) -> str:
    side_of, labels = _sides(runs, compared)
    wanted: dict[str, tuple[str, ...]] = {}
    for run in runs:
        wanted |= followed(run.settings)
    wanted |= {tag: (tag,) for tag in _ALSO}
    most = max(_LEAST, min(most, _MOST_POINTS // (len(runs) * len(wanted))))
    charts = []
    for name, tags in wanted.items():
        drawn = [(run, mean_of(run.tags, tags)) for run in runs]
        lines = [
            Line(thinned(points, most), side_of[run.folder.path], run.key)
            for run, points in drawn
            if len(points) > 1
        ]
        if lines:
            charts.append(Chart(name, "step", lines))
    shown = sorted({line.style for chart in charts for line in chart.lines})
    return f"{_legend({i: labels[i] for i in shown})}{_drawn(charts)}" if charts else ""


def _sides(runs: Sequence[RunFacts], compared: RunComparison | None) -> tuple[dict[Path, int], list[str]]:
    """Number of the side of every run, and the sides' names."""
    if compared is None:
        return {run.folder.path: i for i, run in enumerate(runs)}, [run.key for run in runs]
    numbers = {path: i for i, side in enumerate(compared.sides) for path in side.runs}
    return numbers, [side.label for side in compared.sides]


def _legend(labels: Mapping[int, str]) -> str:
    named = "".join(
        f'<li><button type="button" class="toggle" data-line="{i}" aria-pressed="true">{key_svg(i)} '
        f"{html_text(label)}</button></li>"
        for i, label in labels.items()
    )
    told = ["A colour stands for runs of equal settings; a name hides and shows its lines."]
    if len(labels) > COLOURS * DASHES:
        told.append(f"There are {COLOURS * DASHES} kinds of lines for {len(labels)} groups: some look alike.")
    return f'<ul class="legend all">{named}</ul>\n{notes(told)}'


def _drawn(charts: Sequence[Chart]) -> str:
    shown = "".join(map(chart_svg, charts))
    return f'<div class="charts">\n{shown}</div>\n' if shown else ""
