"""Verbs of graphs of stages: run one, try the small one, print the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from swamp_dist.cli.app import Overrides, app
from swamp_dist.cli.printing import log_to_console, print_table, say
from swamp_dist.config import PipelineSettings, Settings, SweepSettings
from swamp_dist.launch.local import ExitCode
from swamp_dist.loading import kind_of, load

if TYPE_CHECKING:
    from swamp_dist.launch.console import StageStatus

SMOKE = Path("jobs/pipelines/smoke.yaml")


@app.command(epilog="Example:  swamp pipeline jobs/pipelines/smoke.yaml ranks=2 --run-dir runs/smoke")
def pipeline(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Pipeline file.", show_default=False)],
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of all its runs. Default: runs/NAME.")] = None,
) -> None:
    """Build shards, run a graph of stages and print the table. The same command again continues it."""
    _run_pipeline(file, overrides or (), run_dir)


@app.command(epilog="Example:  swamp smoke --run-dir /tmp/smoke")
def smoke(
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of all its runs. Default: runs/NAME.")] = None,
) -> None:
    """Try everything on a small synthetic set: the pipeline jobs/pipelines/smoke.yaml."""
    _run_pipeline(SMOKE, overrides or (), run_dir)


@app.command(epilog="Example:  swamp sweep jobs/sweeps/table13.yaml concurrency=2")
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Sweep file.", show_default=False)],
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of all its runs. Default: runs/NAME.")] = None,
) -> None:
    """Run a job over values of its settings; print a table, plot every setting.

    The same command again continues it: finished runs are kept.
    """
    from swamp_dist.launch.plots import plot_curves
    from swamp_dist.launch.sweep import curves, sweep_pipeline

    settings = load(file, SweepSettings, overrides or ())
    folder = run_dir or Path("runs") / settings.name
    code = _run_graph("sweep", file, sweep_pipeline(settings), folder, given=run_dir is not None)
    for plot in plot_curves(curves(settings, folder), settings.metrics[0], folder / "plots"):
        say(f"plot:        {plot}")
    raise typer.Exit(code)


@app.command(epilog="Examples:  swamp table jobs/pipelines/smoke.yaml  |  swamp table runs/one runs/two")
def table(
    sources: Annotated[
        list[Path], typer.Argument(metavar="PIPELINE | RUN_DIR...", help="A pipeline file, or run folders.")
    ],
    run_dir: Annotated[
        Path | None, typer.Option(help="With a pipeline: its folder. Default: runs/NAME.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Print the results of finished runs."""
    from swamp_dist.launch import tables

    if len(sources) == 1 and not sources[0].is_dir():
        settings = _graph(sources[0])
        built = tables.pipeline_tables(settings, run_dir or Path("runs") / settings.name)
    else:
        built = [tables.runs_table(sources)]
    for each in built:
        print_table(each, markdown)


def _graph(file: Path) -> PipelineSettings:
    kind: type[Settings] = kind_of(file)
    if kind is not SweepSettings:
        return load(file, PipelineSettings)
    from swamp_dist.launch.sweep import sweep_pipeline

    return sweep_pipeline(load(file, SweepSettings))


def _run_pipeline(file: Path, overrides: Sequence[str], run_dir: Path | None) -> None:
    settings = load(file, PipelineSettings, overrides)
    folder = run_dir or Path("runs") / settings.name
    raise typer.Exit(_run_graph("pipeline", file, settings, folder, given=run_dir is not None))


def _run_graph(verb: str, file: Path, settings: PipelineSettings, folder: Path, given: bool) -> ExitCode:
    """Run the graph, print its tables and what to do next; FAILED where a stage is not done."""
    from swamp_dist.launch.console import progress
    from swamp_dist.launch.pipeline import run_pipeline

    log_to_console()
    with progress(Console(stderr=True)) as report:
        statuses = run_pipeline(settings, folder, report)
    failed = [s for s in statuses if s.state != "done"]
    if settings.tables and len(failed) < len(statuses):
        from swamp_dist.launch import tables

        for each in tables.pipeline_tables(settings, folder):
            print_table(each, markdown=False)
    _conclude(verb, file, folder, statuses, failed, given)
    return ExitCode.FAILED if failed else ExitCode.DONE


def _conclude(
    verb: str,
    file: Path,
    folder: Path,
    statuses: Sequence[StageStatus],
    failed: Sequence[StageStatus],
    given: bool,
) -> None:
    for status in failed:
        say(f"{status.state}: {status.key}: {status.message}", error=True)
    option = f" --run-dir {folder}" if given else ""
    for status in statuses if len(statuses) <= 12 else ():
        say(f"run folder:  {status.run_dir}")
    say(f"all runs:    {folder}")
    say(f"curves:      tensorboard --logdir {folder}")
    command = f"swamp {verb if failed else 'table'} {file}"
    say(f"next:        {command}{option}" + ("  (continues; done stages are skipped)" if failed else ""))
