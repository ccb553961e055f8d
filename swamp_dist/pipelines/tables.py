"""Tables of finished runs: of a pipeline over its matrix cells, or of run folders side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swamp_dist.config import PipelineSettings, TableRow, TableSettings
from swamp_dist.evaluate.results import RESULT_FILE, metric_names, read_result, stage_results
from swamp_dist.evaluate.table import ResultTable, build_table
from swamp_dist.launch.plan import cells
from swamp_dist.records import StageResult, UserError

_SHOWN = ("r_at_1", "r_at_5", "r_at_10", "median_rank", "map")


def pipeline_tables(settings: PipelineSettings, run_dir: Path) -> list[ResultTable]:
    """The tables of a pipeline file, from the runs that are done by now.

    Raises:
        UserError: the file asks for no table, no run is done yet, or a metric does not exist.
    """
    if not settings.tables:
        raise UserError(f"pipeline {settings.name} has no `tables:` section; name run folders instead")
    results = {
        name: stage_results(run_dir / cell / name for cell, _ in cells(settings.matrix))
        for name in settings.stages
    }
    if not any(result for stage in results.values() for result in stage):
        raise UserError(f"no stage of pipeline {settings.name} is done in {run_dir}; is that its --run-dir?")
    return [build_table(table, results) for table in settings.tables]


def runs_table(folders: Sequence[Path]) -> ResultTable:
    """A row for every run in the folders (a folder of runs counts as all of them), first evaluation only.

    Raises:
        UserError: a folder holds no finished run.
    """
    runs = [run for folder in folders for run in _runs(folder)]
    results = {str(run): [read_result(run)] for run in runs}
    evaluated = [r for (r,) in results.values() if r.evaluations]
    if not evaluated:
        raise UserError(f"nothing was evaluated in {', '.join(map(str, runs))}: add `evaluate:` to the job")
    found = dict.fromkeys(n for r in evaluated for n in metric_names(r.evaluations[0].metrics))
    metrics = tuple(n for n in found if n.split("/")[2] in _SHOWN and n.split("/")[1] != "mean")
    rows = tuple(TableRow(label=r.name, stage=key) for key, (r,) in results.items() if r.evaluations)
    if len({row.label for row in rows}) < len(rows):
        rows = tuple(row.model_copy(update={"label": row.stage}) for row in rows)
    shown: dict[str, Sequence[StageResult | None]] = {
        row.stage: results[row.stage] for row in rows if row.stage
    }
    return build_table(TableSettings(metrics=metrics, rows=rows), shown)


def _runs(folder: Path) -> list[Path]:
    if (folder / RESULT_FILE).is_file():
        return [folder]
    found = sorted(path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{RESULT_FILE}"))
    if not found:
        raise UserError(f"{folder} holds no finished run: no {RESULT_FILE} in it or in its folders")
    return found
