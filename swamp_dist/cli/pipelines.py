"""Verbs of graphs of stages: run one, try the small one, print the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from swamp_dist.cli.app import Overrides, app
from swamp_dist.cli.printing import log_to_console, print_table, say
from swamp_dist.config import PipelineSettings
from swamp_dist.launch.local import ExitCode
from swamp_dist.loading import load

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
        settings = load(sources[0], PipelineSettings)
        built = tables.pipeline_tables(settings, run_dir or Path("runs") / settings.name)
    else:
        built = [tables.runs_table(sources)]
    for each in built:
        print_table(each, markdown)


def _run_pipeline(file: Path, overrides: Sequence[str], run_dir: Path | None) -> None:
    from swamp_dist.launch.console import progress
    from swamp_dist.launch.pipeline import run_pipeline

    settings = load(file, PipelineSettings, overrides)
    folder = run_dir or Path("runs") / settings.name
    log_to_console()
    with progress(Console(stderr=True)) as report:
        statuses = run_pipeline(settings, folder, report)
    failed = [s for s in statuses if s.state != "done"]
    if settings.tables and len(failed) < len(statuses):
        from swamp_dist.launch import tables

        for each in tables.pipeline_tables(settings, folder):
            print_table(each, markdown=False)
    _conclude(file, folder, statuses, failed, given=run_dir is not None)
    raise typer.Exit(ExitCode.FAILED if failed else ExitCode.DONE)


def _conclude(
    file: Path, folder: Path, statuses: Sequence[StageStatus], failed: Sequence[StageStatus], given: bool
) -> None:
    for status in failed:
        say(f"{status.state}: {status.key}: {status.message}", error=True)
    option = f" --run-dir {folder}" if given else ""
    for status in statuses if len(statuses) <= 12 else ():
        say(f"run folder:  {status.run_dir}")
    say(f"all runs:    {folder}")
    say(f"curves:      tensorboard --logdir {folder}")
    verb = f"swamp pipeline {file}" if failed else f"swamp table {file}"
    say(f"next:        {verb}{option}" + ("  (continues; done stages are skipped)" if failed else ""))
