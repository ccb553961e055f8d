"""The results of a report: the tables of `swamp table` and `swamp compare`, and the figures of a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from swamp_dist.config import TableRow, TableSettings
from swamp_dist.errors import UserError
from swamp_dist.evaluate.choose import chosen_metrics, with_metrics
from swamp_dist.evaluate.render import grids
from swamp_dist.evaluate.results import metric_names, splits_text
from swamp_dist.evaluate.table import ResultTable, build_table
from swamp_dist.monitor.overview import common_folder
from swamp_dist.pipelines.compare import RunComparison
from swamp_dist.pipelines.sweep import value_label
from swamp_dist.pipelines.sweep_curves import Curve, curves, value_axis
from swamp_dist.pipelines.tables import pipeline_tables, runs_table
from swamp_dist.printable import html_text
from swamp_dist.report.chart import Chart, Line, Marks, chart_svg
from swamp_dist.report.facts import RunFacts
from swamp_dist.report.parts import Section, notes, table
from swamp_dist.report.subject import Subject


def results_part(
    subject: Subject, runs: Sequence[RunFacts], compared: RunComparison | None, metrics: Sequence[str]
) -> Section:
    """Tables with intervals, and the figures of a sweep.

    Raises:
        UserError: a metric that no run has.
    """
    evaluated = [run for run in runs if run.result is not None and run.result.evaluations]
    if not evaluated:
        return Section("results", "Results", notes(["No run has been evaluated yet."]))
    body, each_run = "", list(_tables(subject, evaluated, metrics))
    if compared is not None and compared.table is not None and not _has_own_tables(subject):
        body = _drawn(replace(compared.table, title="Runs of equal settings, over their seeds"))
        body += notes(compared.notes)
        each_run = [replace(table, title=table.title or "Every run") for table in each_run]
    body += "".join(_drawn(each) for each in each_run)
    if subject.sweep is not None:
        body += _figures(curves(subject.sweep, subject.folder))
    return Section("results", "Results", body)


def _drawn(built: ResultTable) -> str:
    """Figures and paired differences; names of rows without the folders that all of them begin with."""
    folder = common_folder([row.label for row in built.rows])
    parts = []
    for grid in grids(built):
        rows = tuple(tuple(text.removeprefix(folder) for text in row) for row in grid.rows)
        told = (*grid.notes, *([f"All in {folder}"] if folder and grid.notes else []))
        parts.append(table(replace(grid, rows=rows, notes=told)))
    return "".join(parts)


def _has_own_tables(subject: Subject) -> bool:
    return subject.pipeline is not None and bool(subject.pipeline.tables)


def _tables(subject: Subject, evaluated: Sequence[RunFacts], metrics: Sequence[str]) -> Iterator[ResultTable]:
    if subject.pipeline is not None and _has_own_tables(subject):
        built = pipeline_tables(subject.pipeline, subject.folder)
        yield from (with_metrics(each, metrics) if metrics else each for each in built)
    elif len(evaluated) == 1:
        yield from _of_one_run(evaluated[0], metrics)
    else:
        yield runs_table([run.folder.path for run in evaluated], metrics)


def _of_one_run(run: RunFacts, metrics: Sequence[str]) -> Iterator[ResultTable]:
    """Every evaluation of a run beside what random ranking would reach."""
    assert run.result is not None
    for place, evaluation in enumerate(run.result.evaluations):
        known = metric_names(evaluation.metrics)
        try:
            shown = chosen_metrics(metrics, known, "this evaluation") if metrics else tuple(known)
        except UserError:
            if len(run.result.evaluations) == 1:
                raise
            continue
        rows = (TableRow(label=run.result.name, stage="run"), TableRow(label="chance", chance=True))
        title = f"Evaluated on {splits_text(evaluation)}"
        settings = TableSettings(
            title=title, metrics=shown, rows=rows, evaluation=place, note=evaluation.note
        )
        yield build_table(settings, {"run": [run.result]})


def _figures(found: Sequence[Curve]) -> str:
    """A chart for every setting and metric of a sweep that has a finished run."""
    shown = [curve for curve in found if any(curve.runs)]
    if not shown:
        return ""
    parts = []
    for setting, panels in itertools.groupby(shown, key=lambda curve: curve.setting):
        of_one = list(panels)
        charts = "".join(chart_svg(_chart(curve)) for curve in of_one)
        parts.append(f'<h3>{html_text(setting)}</h3>\n<div class="charts">\n{charts}</div>\n')
        if averaged := of_one[0].averaged:
            parts.append(notes([f"Means over all values of {', '.join(averaged)}, and over seeds: no bars."]))
    bars = "" if any(curve.averaged for curve in shown) else ", a bar is their 95% t interval over seeds"
    told = (
        f"Evaluated on {shown[0].split}. A line joins the means of the runs{bars}, a pale dot is a run, the "
        "ring the best mean; the broken line is the contrastive loss alone (lambda 0)."
    )
    return "".join(parts) + notes([told])


def _chart(curve: Curve) -> Chart:
    axis = value_axis(curve.values)
    found = [(x, each) for x, each in zip(axis.positions, curve.summaries, strict=True) if each is not None]
    best, line = curve.best, curve.contrastive
    mean = sum(line) / len(line) if line else 0.0
    marks = Marks(
        dots=[(x, y) for x, runs in zip(axis.positions, curve.runs, strict=True) for y in runs],
        bars=[(x, s.low, s.high) for x, s in found if s.low is not None and s.high is not None],
        best=None if best is None else next((x, s.mean) for x, s in found if x == axis.positions[best]),
        level=(mean, f"contrastive alone: {mean:.2f}") if line else None,
        x_ticks=list(zip(axis.positions, axis.labels, strict=True)),
    )
    name = curve.setting.rpartition(".")[2]
    scale = ", logarithmic" if axis.is_log else ""
    label = f"{name}{scale}; the job has {value_label(curve.job_value)}"
    means = [(x, s.mean) for x, s in found]
    lines = [means] if axis.is_number else [[point] for point in means]
    return Chart(curve.metric, label, [Line(points, 0, "mean") for points in lines], marks)
