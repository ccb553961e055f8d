"""The closing table: figures over seeds beside published ones and chance, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swamp_dist.config import TableRow, TableSettings
from swamp_dist.errors import UserError
from swamp_dist.evaluate.intervals import Summary, summarize
from swamp_dist.evaluate.measured_on import MeasuredRow, differences_note, direction_names
from swamp_dist.evaluate.metric_names import check_metric_name
from swamp_dist.evaluate.results import (
    better,
    chance_value,
    figure_heading,
    metric_names,
    metric_value,
    splits_text,
)
from swamp_dist.records import EvaluationResult, StageResult

Results = Mapping[str, Sequence[StageResult | None]]
"""Stage name -> its results over matrix cells, the same cells in the same order for every stage;
None where a cell is not done."""


@dataclass(frozen=True)
class ResultRow:
    """One line of figures; None is a figure that does not exist."""

    label: str
    figures: tuple[Summary | None, ...]
    runs: int | None
    """Finished runs behind the line; None for published figures and chance."""
    published: bool = False
    """Printed with the digits that were published."""
    note: str = ""
    """What a reader must know of this line."""


@dataclass(frozen=True)
class Comparison:
    """A stage against another in one metric, over the cells that both have finished."""

    label: str
    against: str
    """Label of the other stage."""
    metric: str
    difference: Summary | None
    """Of stage minus the other, cell by cell; None where no cell has both."""
    wins: int
    """Cells in which the stage is better: lower for median ranks, else higher. Equal is no win."""


@dataclass(frozen=True)
class ResultTable:
    """All that is printed, as values."""

    title: str
    metrics: tuple[str, ...]
    headings: tuple[str, ...]
    """Display name of each metric, for example `pair text->video R@1`."""
    rows: tuple[ResultRow, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]


def build_table(settings: TableSettings, results: Results) -> ResultTable:
    """The table that `settings` describe.

    Raises:
        UserError: a row or the baseline names no known stage, a row says several things at once, or a
            metric exists in none of the results.
    """
    _check_rows(settings, results)
    evaluations = {cells: _evaluations(cells, results) for cells in named_evaluations(settings)}
    shown = [e for cells in _row_cells(settings) for e in evaluations[cells] if e is not None]
    _check_metrics(settings, shown)
    return ResultTable(
        title=settings.title,
        metrics=settings.metrics,
        headings=tuple(_heading(metric, shown) for metric in settings.metrics),
        rows=tuple(_row(row, settings, evaluations, shown) for row in settings.rows),
        comparisons=_comparisons(settings, evaluations),
        notes=_notes(settings, results, evaluations, shown),
    )


_Cells = tuple[str, int]
"""A stage, and which entry of its evaluations."""
_Evaluations = Mapping[_Cells, Sequence[EvaluationResult | None]]


def _label(settings: TableSettings, cells: _Cells) -> str:
    """What the row that shows these cells is called; where none does, a row of the stage or the stage, and
    which entry of its evaluations it is."""
    of_stage = [row for row in settings.rows if row.stage == cells[0]]
    for row in of_stage:
        if _cells(settings, row) == cells:
            return row.label
    name = of_stage[0].label if of_stage else cells[0]
    return name if cells[1] == settings.evaluation else f"{name}, evaluation {cells[1]}"


def _cells(settings: TableSettings, row: TableRow) -> _Cells | None:
    """What a row shows; None for figures that are no stage's."""
    number = settings.evaluation if row.evaluation is None else row.evaluation
    return None if row.stage is None else (row.stage, number)


def _against(settings: TableSettings, row: TableRow) -> _Cells | None:
    """What a row is compared with: nothing for figures that are no stage's, nor itself. Of its own stage it
    is the entry that the table shows."""
    other, own = row.against or settings.baseline, _cells(settings, row)
    if own is None or other is None:
        return None
    found = other, settings.evaluation if other == row.stage else own[1]
    return None if found == own else found


def named_evaluations(settings: TableSettings) -> list[_Cells]:
    """Stages that a table shows or compares with, each with the number of an entry of its `evaluate`."""
    compared = [other for row in settings.rows if (other := _against(settings, row)) is not None]
    return list(dict.fromkeys([*_row_cells(settings), *compared]))


def _row_cells(settings: TableSettings) -> list[_Cells]:
    return [own for row in settings.rows if (own := _cells(settings, row)) is not None]


def _check_rows(settings: TableSettings, results: Results) -> None:
    for row in settings.rows:
        said = [row.stage is not None, bool(row.published), row.chance]
        if sum(said) != 1:
            raise UserError(
                f"table row {row.label!r}: expected exactly one of stage, published, chance; found "
                f"{sum(said)}."
            )
        extra = sorted(row.published.keys() - set(settings.metrics))
        if extra:
            raise UserError(
                f"table row {row.label!r}: published names {extra}, which are not among the table's metrics "
                f"{list(settings.metrics)}.\nFix the name, or add it to metrics."
            )
    named = [stage for stage, _ in named_evaluations(settings)]
    named += [settings.baseline] if settings.baseline else []
    unknown = [stage for stage in named if stage not in results]
    if unknown:
        raise UserError(f"table: {unknown[0]!r} is not a stage; stages are {sorted(results)}.")
    compared = any(_against(settings, row) for row in settings.rows)
    if compared and len({len(results[stage]) for stage in named}) > 1:
        raise UserError(
            "table: a comparison needs the same matrix cells for every stage, found different numbers of "
            "runs."
        )


def _evaluations(cells: _Cells, results: Results) -> list[EvaluationResult | None]:
    stage, number = cells
    for result in results[stage]:
        if result is not None and not 0 <= number < len(result.evaluations):
            raise UserError(
                f"table: evaluation = {number}, but stage {stage!r} in {result.run_dir} has "
                f"{len(result.evaluations)} evaluations (counted from 0)."
            )
    return [None if result is None else result.evaluations[number] for result in results[stage]]


def _check_metrics(settings: TableSettings, shown: Sequence[EvaluationResult]) -> None:
    known = list(dict.fromkeys(name for e in shown for name in metric_names(e.metrics)))
    for metric in settings.metrics if shown else ():
        check_metric_name(metric, known, "any stage of the table")


def _value(evaluation: EvaluationResult | None, metric: str) -> float | None:
    if evaluation is None or metric not in metric_names(evaluation.metrics):
        return None
    return metric_value(evaluation, metric)


def _chance(evaluation: EvaluationResult, metric: str) -> float | None:
    return chance_value(evaluation, metric) if metric in metric_names(evaluation.chance) else None


def _over(values: Sequence[float | None]) -> Summary | None:
    present = [v for v in values if v is not None]
    return summarize(present) if present else None


def _row(
    row: TableRow, settings: TableSettings, evaluations: _Evaluations, shown: Sequence[EvaluationResult]
) -> ResultRow:
    metrics = settings.metrics
    if (own := _cells(settings, row)) is not None:
        cells = evaluations[own]
        figures = tuple(_over([_value(cell, metric) for cell in cells]) for metric in metrics)
        return ResultRow(row.label, figures, sum(cell is not None for cell in cells), note=row.note)
    if row.chance:
        expected = tuple(_over([_chance(e, m) for e in shown[:1]]) for m in metrics)
        return ResultRow(row.label, expected, None, note=row.note)
    figures = tuple(_over([row.published.get(metric)]) for metric in metrics)
    return ResultRow(row.label, figures, None, published=True, note=row.note)


def _comparisons(settings: TableSettings, evaluations: _Evaluations) -> tuple[Comparison, ...]:
    return tuple(
        _compare(row.label, _label(settings, other), metric, evaluations[own], evaluations[other])
        for row in settings.rows
        if (own := _cells(settings, row)) is not None and (other := _against(settings, row)) is not None
        for metric in settings.metrics
    )


def _compare(
    label: str,
    against: str,
    metric: str,
    stage: Sequence[EvaluationResult | None],
    base: Sequence[EvaluationResult | None],
) -> Comparison:
    pairs = [(_value(x, metric), _value(y, metric)) for x, y in zip(stage, base, strict=True)]
    both = [(x, y) for x, y in pairs if x is not None and y is not None]
    wins = sum(better(metric, x, y) for x, y in both)
    return Comparison(label, against, metric, _over([x - y for x, y in both]), wins)


_DIRECTIONS = {"a_to_b": "a->b", "b_to_a": "b->a", "mean": "both ways", "both": ""}


def _heading(metric: str, shown: Sequence[EvaluationResult]) -> str:
    """`pair/a_to_b/r_at_1` -> `pair text->video R@1`, with the display name of the direction where it has one
    in all results."""
    relevance, direction, figure = metric.split("/") if metric.count("/") == 2 else ("", "", metric)
    known = direction_names(shown, f"{relevance}/{direction}")
    named = known.pop() if len(known) == 1 else _DIRECTIONS.get(direction, direction)
    return " ".join(part for part in (relevance, named, figure_heading(figure)) if part)


def _notes(
    settings: TableSettings,
    results: Results,
    evaluations: _Evaluations,
    shown: Sequence[EvaluationResult],
) -> tuple[str, ...]:
    splits = ", ".join(dict.fromkeys(splits_text(e) for e in shown))
    notes = (
        [f"Evaluated on split {splits}; mean +- standard deviation over n runs; percent except MedR."]
        if shown
        else []
    )
    rows = [(row.label, own) for row in settings.rows if (own := _cells(settings, row)) is not None]
    differ = differences_note([MeasuredRow(name, results[own[0]], evaluations[own]) for name, own in rows])
    notes += [differ] if differ else []
    notes += dict.fromkeys(each.note for each in shown if each.note)
    if settings.note:
        notes.append(settings.note)
    for row in settings.rows:
        cells = [] if (own := _cells(settings, row)) is None else evaluations[own]
        if missing := sum(cell is None for cell in cells):
            notes.append(f"{row.label}: {missing} of {len(cells)} runs not done.")
    return tuple(notes)
