"""Verbs of graphs of stages: run one, try the small one, print the table."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swamp_dist.cli.app import Overrides, app
from swamp_dist.cli.printing import log_to_console, print_table, say
from swamp_dist.config import (
    ClusterSettings,
    PipelineSettings,
    SweepSettings,
)
from swamp_dist.console import open_console
from swamp_dist.errors import ExitCode, UserError
from swamp_dist.loading import load, load_cluster

if TYPE_CHECKING:
    from swamp_dist.pipelines.run import StageEnd

SMOKE = Path("jobs/pipelines/smoke.yaml")
ClusterFile = Annotated[
    Path | None, typer.Option(help="Cluster file: where the stages run. Default: this machine.")
]
Detach = Annotated[
    bool,
    typer.Option(
        "--detach",
        help="With SLURM: hand the whole graph to the scheduler and return; nothing stays behind here.",
    ),
]


@dataclass(frozen=True)
class _GraphCommand:
    """A graph and how it was asked for."""

    verb: str
    file: Path
    settings: PipelineSettings
    folder: Path
    given: bool
    """The folder was named on the command line."""
    cluster_file: Path | None
    cluster: ClusterSettings | None
    keeps_jobs: bool
    """A scheduler holds its stages as jobs, which go on without this command."""
    overrides: tuple[str, ...] = ()
    """KEY=VALUE words of the command line."""

    @property
    def command(self) -> str:
        """The command that continues it."""
        cluster = [] if self.cluster_file is None else ["--cluster", str(self.cluster_file)]
        folder = ["--run-dir", str(self.folder)] if self.given else []
        return shlex.join(["swamp", self.verb, str(self.file), *self.overrides, *cluster, *folder])

    @property
    def table(self) -> str:
        """The command that prints its tables; an override may have given it another folder."""
        named = self.given or bool(self.overrides)
        folder = ["--run-dir", str(self.folder)] if named else []
        return shlex.join(["swamp", "table", str(self.file), *folder])


@app.command(epilog="Example:  swamp pipeline jobs/pipelines/smoke.yaml ranks=2 --run-dir runs/smoke")
def pipeline(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Pipeline file.", show_default=False)],
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of all its runs. Default: runs/NAME.")] = None,
    cluster: ClusterFile = None,
    detach: Detach = False,
) -> None:
    """Build shards, run a graph of stages and print the table. The same command again continues it."""
    _run_pipeline(file, overrides or (), run_dir, cluster, detach)


@app.command(epilog="Example:  swamp smoke --run-dir /tmp/smoke")
def smoke(
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of all its runs. Default: runs/NAME.")] = None,
) -> None:
    """Try everything on a small synthetic set: the pipeline jobs/pipelines/smoke.yaml."""
    if not SMOKE.is_file():
        raise UserError(
            f"{SMOKE} does not exist in this folder, {Path.cwd()}.\n"
            "Fix: `swamp init` lays down jobs and recipes here; or go to the folder that has them."
        )
    _run_pipeline(SMOKE, overrides or (), run_dir, None, False)


@app.command(epilog="Example:  swamp sweep jobs/sweeps/table13.yaml concurrency=2")
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Sweep file.", show_default=False)],
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of all its runs. Default: runs/NAME.")] = None,
    cluster: ClusterFile = None,
    detach: Detach = False,
) -> None:
    """Run a job over values of its settings; print a table, plot every setting.

    The same command again continues it: finished runs are kept.
    """
    from swamp_dist.pipelines.plots import plot_curves
    from swamp_dist.pipelines.sweep import sweep_pipeline
    from swamp_dist.pipelines.sweep_curves import curves

    settings = load(file, SweepSettings, overrides or ())
    graph = _parse_arguments("sweep", file, sweep_pipeline(settings), run_dir, cluster, overrides or ())
    if detach:
        _detach(graph)
    code, folder = _run_graph(graph), graph.folder
    for plot in plot_curves(curves(settings, folder), settings.name, folder / "plots"):
        say(f"plot:        {plot}")
    raise typer.Exit(code)


def _run_pipeline(
    file: Path, overrides: Sequence[str], run_dir: Path | None, cluster: Path | None, detach: bool
) -> None:
    graph = _parse_arguments(
        "pipeline", file, load(file, PipelineSettings, overrides), run_dir, cluster, overrides
    )
    if detach:
        _detach(graph)
    raise typer.Exit(_run_graph(graph))


def _parse_arguments(
    verb: str,
    file: Path,
    settings: PipelineSettings,
    run_dir: Path | None,
    cluster: Path | None,
    overrides: Sequence[str],
) -> _GraphCommand:
    from swamp_dist.backends.protocols import JobBackend
    from swamp_dist.backends.registry import open_backend

    where = None if cluster is None else load_cluster(cluster)
    keeps_jobs = where is not None and isinstance(open_backend(where), JobBackend)
    if where is not None and not keeps_jobs and where.backend != "local":
        raise UserError(
            f"{cluster}: backend = {where.backend} runs single stages "
            f"(`swamp submit JOB --cluster {cluster}`); a pipeline holds its graph in a Ray of its own and "
            "runs stages on this machine or as SLURM jobs.\n"
            "Fix: a cluster file with backend: local or slurm; slurm with launcher: ray starts a Ray in "
            "every job."
        )
    folder = run_dir or Path("runs") / settings.name
    given = run_dir is not None
    return _GraphCommand(verb, file, settings, folder, given, cluster, where, keeps_jobs, tuple(overrides))


def _run_graph(graph: _GraphCommand) -> ExitCode:
    """Run the graph, print its tables and what to do next; FAILED where a stage is not done."""
    from swamp_dist.pipelines.live_view import live_view
    from swamp_dist.pipelines.run import run_pipeline

    log_to_console()
    try:
        with live_view(open_console(error=True), at_once=graph.settings.concurrency) as report:
            ends = run_pipeline(graph.settings, graph.folder, report, cluster=graph.cluster)
    except KeyboardInterrupt:
        if graph.keeps_jobs:
            say(
                f"jobs that are submitted go on without this command; it follows them again.\n"
                f"end them:    swamp cancel {graph.folder}",
                error=True,
            )
        raise
    failed = [s for s in ends if s.state != "done"]
    if graph.settings.tables and len(failed) < len(ends):
        from swamp_dist.pipelines import tables

        for each in tables.pipeline_tables(graph.settings, graph.folder):
            print_table(each, markdown=False)
    _conclude(graph, ends, failed)
    return ExitCode.FAILED if failed else ExitCode.DONE


def _conclude(graph: _GraphCommand, ends: Sequence[StageEnd], failed: Sequence[StageEnd]) -> None:
    for end in failed:
        say(f"{end.state}: {end.key}: {end.message}", error=True)
    for end in ends if len(ends) <= 12 else ():
        say(f"run folder:  {end.run_dir}")
    say(f"all runs:    {graph.folder}")
    say(f"curves:      tensorboard --logdir {graph.folder}")
    if failed:
        say(f"next:        {graph.command}  (continues; done stages are skipped)")
    else:
        say(f"next:        {graph.table}")


def _detach(graph: _GraphCommand) -> None:
    """Hand the graph to the scheduler and say how to watch it; does not return."""
    from swamp_dist.pipelines.hand_over import hand_over

    if graph.cluster is None or not graph.keeps_jobs:
        raise UserError(
            "--detach: expected a cluster file with `backend: slurm`, whose scheduler keeps the graph.\n"
            "On this machine, start the command in the background instead: nohup swamp ... &"
        )
    log_to_console()
    for handed in hand_over(graph.settings, graph.folder, graph.cluster, sys.argv):
        say(f"{handed.what:<9} {'job ' + handed.job if handed.job else '':<14} {handed.key}")
    say(f"all runs:    {graph.folder}")
    say(f"state:       swamp status {graph.folder}")
    say(f"end it:      swamp cancel {graph.folder}")
    say(f"next:        {graph.command}  (waits for the end and prints the table)")
    raise typer.Exit(ExitCode.DONE)
