"""Tables of finished runs: of a pipeline over its matrix cells, or of run folders side by side."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from swamp_dist.config import PipelineSettings, TableRow, TableSettings
from swamp_dist.errors import UserError
from swamp_dist.evaluate.choose import chosen_metrics
from swamp_dist.evaluate.results import metric_names, read_result
from swamp_dist.evaluate.table import ResultTable, build_table
from swamp_dist.file_names import RESULT_FILE
from swamp_dist.pipelines.matrix import cells
from swamp_dist.records import StageResult

_SHOWN = ("r_at_1", "r_at_5", "r_at_10", "median_rank", "map")


def pipeline_tables(settings: PipelineSettings, run_dir: Path) -> list[ResultTable]:
    """The tables of a pipeline file, from the runs that are done by now.

    Raises:
        UserError: the file asks for no table, no run is done yet, or a metric does not exist.
    """
    if not settings.tables:
        raise UserError(f"pipeline {settings.name} has no `tables:` section; name run folders instead")
    left_out: list[str] = []
    results = {
        name: [_result(run_dir / cell / name, left_out) for cell, _ in cells(settings.matrix)]
        for name in settings.stages
    }
    if not any(result for stage in results.values() for result in stage):
        where = f"{run_dir}" if run_dir.is_dir() else f"{run_dir}, which does not exist"
        said = f"{settings.name}: no stage is done in {where}."
        fix = "Give the folder of its runs as --run-dir, or wait until a stage is done."
        raise UserError("\n".join([said, fix, *left_out]))
    return [build_table(_with_note(table, left_out), results) for table in settings.tables]


def runs_table(folders: Sequence[Path], metrics: Sequence[str] = ()) -> ResultTable:
    """A row for every run in the folders (a folder of runs counts as all of them), first evaluation only, and
    one for the same evaluation by normalised scores.

    Args:
        metrics: which to show, as `chosen_metrics` takes them; none chooses recalls, median rank and mAP.

    Raises:
        UserError: a folder holds no finished run, or a metric is not a figure of them.
    """
    runs = [run for folder in folders for run in _runs(folder)]
    left_out: list[str] = []
    found_in = {str(run): _result(run, left_out) for run in runs}
    results = {key: [result] for key, result in found_in.items() if result is not None}
    if not results:
        raise UserError("\n".join(left_out))
    evaluated = [r for (r,) in results.values() if r.evaluations]
    if not evaluated:
        raise UserError(
            f"nothing was evaluated in {', '.join(map(str, runs))}: their jobs have no `evaluate:`.\n"
            f"What they validated by: swamp status {' '.join(shlex.quote(str(each)) for each in folders)}"
        )
    found = dict.fromkeys(n for r in evaluated for n in metric_names(r.evaluations[0].metrics))
    usual = tuple(n for n in found if n.split("/")[2] in _SHOWN and n.split("/")[1] != "mean")
    shown_metrics = chosen_metrics(metrics, tuple(found), "these runs") if metrics else usual
    rows = tuple(TableRow(label=r.name, stage=key) for key, (r,) in results.items() if r.evaluations)
    if len({row.label for row in rows}) < len(rows):
        rows = tuple(row.model_copy(update={"label": row.stage}) for row in rows)
    rows = tuple(each for row in rows for each in _with_normalised(row, results[str(row.stage)][0]))
    shown: dict[str, Sequence[StageResult | None]] = {
        row.stage: results[row.stage] for row in rows if row.stage
    }
    return build_table(_with_note(TableSettings(metrics=shown_metrics, rows=rows), left_out), shown)


def _with_normalised(row: TableRow, result: StageResult) -> Iterator[TableRow]:
    """A row of the first evaluation, and those of the same split and gallery by normalised scores."""
    yield row
    first = result.evaluations[0]
    for number, each in enumerate(result.evaluations[1:], start=1):
        if each.normalised and (each.split, each.gallery) == (first.split, first.gallery):
            yield row.model_copy(update={"label": f"{row.label} ({each.normalised})", "evaluation": number})


def _result(folder: Path, left_out: list[str]) -> StageResult | None:
    """The result of a run; None where there is none, or none that can be read: that one is `left_out`."""
    try:
        return read_result(folder) if (folder / RESULT_FILE).exists() else None
    except UserError as error:
        left_out.append(str(error).splitlines()[0])
        return None


def _with_note(table: TableSettings, left_out: Sequence[str]) -> TableSettings:
    """The table saying under its figures which runs are not among them."""
    if not left_out:
        return table
    said = f"LEFT OUT: {'; '.join(left_out)}"
    return table.model_copy(update={"note": f"{table.note} {said}".strip()})


def _runs(folder: Path) -> list[Path]:
    if (folder / RESULT_FILE).is_file():
        return [folder]
    found = sorted(path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{RESULT_FILE}"))
    if not found and not folder.is_dir():
        raise UserError(f"{folder} does not exist: expected run folders, or a pipeline or sweep file.")
    if not found:
        raise UserError(
            f"{folder} holds no finished run: no {RESULT_FILE} in it or in its folders.\n"
            f"What is in it: swamp status {shlex.quote(str(folder))}. To start a run: swamp run JOB"
        )
    return found
