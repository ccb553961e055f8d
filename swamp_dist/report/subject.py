"""What a report is about: a run, a folder of runs, a pipeline or a sweep, and the folders of its runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from swamp_dist.config import PipelineSettings, Settings, SweepSettings
from swamp_dist.errors import UserError
from swamp_dist.loading import kind_of, load
from swamp_dist.monitor.survey import is_run, no_runs, run_entries
from swamp_dist.pipelines.matrix import cells
from swamp_dist.pipelines.sweep import sweep_pipeline
from swamp_dist.runs.folder import RunDir


@dataclass(frozen=True)
class Subject:
    """What was named on the command line."""

    kind: str
    """`run`, `runs`, `pipeline` or `sweep`."""
    name: str
    folder: Path
    """Of the run, or the one that holds all runs."""
    runs: tuple[tuple[str, RunDir], ...]
    """Key and folder of every run that has begun, in the order of the graph."""
    planned: int
    """Runs that belong to it, begun or not."""
    pipeline: PipelineSettings | None = None
    """Of a pipeline or sweep that was named by its file."""
    sweep: SweepSettings | None = None


def open_subject(source: Path, run_dir: Path | None) -> Subject:
    """What `source` names.

    Args:
        source: run folder, folder of runs, pipeline's folder, pipeline file or sweep file.
        run_dir: with a file, the folder of its runs; default runs/NAME.

    Raises:
        UserError: none of these, or no run of it has begun.
    """
    if source.is_dir():
        if run_dir is not None:
            raise UserError(f"--run-dir belongs to a pipeline or sweep file; {source} is a folder of its own")
        return _of_folder(source)
    if source.suffix not in (".yaml", ".yml"):
        raise UserError(no_runs(source, "a run folder, a folder of runs, or the file of a pipeline or sweep"))
    return _of_file(source, run_dir)


def _of_folder(source: Path) -> Subject:
    groups = run_entries(source)
    entries = [entry for _, _, inside in groups for entry in inside]
    kind = "run" if is_run(source) else "pipeline" if any(graph for _, graph, _ in groups) else "runs"
    name = source.resolve().name
    begun = tuple(
        (name if kind == "run" else entry.key, entry.run_dir)
        for entry in entries
        if is_run(entry.run_dir.path)
    )
    _refuse_nothing(begun, source)
    return Subject(kind, name, source, begun, len(entries))


def _of_file(file: Path, run_dir: Path | None) -> Subject:
    kind: type[Settings] = kind_of(file)
    if kind is SweepSettings:
        sweep = load(file, SweepSettings)
        pipeline = sweep_pipeline(sweep)
    elif kind is PipelineSettings:
        sweep, pipeline = None, load(file, PipelineSettings)
    else:
        raise UserError(
            f"{file} is no pipeline or sweep: a report is about runs.\n"
            "Fix: name the run's folder, such as runs/NAME"
        )
    folder = run_dir or Path("runs") / pipeline.name
    keys = [
        f"{cell}/{name}" if cell else name for cell, _ in cells(pipeline.matrix) for name in pipeline.stages
    ]
    begun = tuple((key, RunDir(folder / key)) for key in keys if is_run(folder / key))
    _refuse_nothing(begun, folder)
    named = "pipeline" if sweep is None else "sweep"
    return Subject(named, pipeline.name, folder, begun, len(keys), pipeline, sweep)


def _refuse_nothing(begun: tuple[tuple[str, RunDir], ...], folder: Path) -> None:
    if not begun:
        raise UserError(
            f"no run of it has begun in {folder}.\n"
            "Fix: name the folder of its runs with --run-dir, or start it first"
        )
