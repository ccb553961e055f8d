"""Verbs of graphs of stages: run one, try the small one, print the table."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from swamp_dist.cli.app import Overrides, app
from swamp_dist.cli.printing import log_to_console, print_table, say
from swamp_dist.config import (
    LocalCluster,
    PipelineSettings,
    RayCluster,
    Settings,
    SlurmCluster,
    SweepSettings,
)
from swamp_dist.launch.local import ExitCode
from swamp_dist.loading import kind_of, load, load_cluster
from swamp_dist.records import UserError

if TYPE_CHECKING:
    from swamp_dist.launch.console import StageStatus

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
class _Asked:
    """A graph and how it was asked for."""

    verb: str
    file: Path
    settings: PipelineSettings
    folder: Path
    given: bool
    """The folder was named on the command line."""
    cluster_file: Path | None
    cluster: LocalCluster | SlurmCluster | None

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
    from swamp_dist.launch.plots import plot_curves
    from swamp_dist.launch.sweep import curves, sweep_pipeline

    settings = load(file, SweepSettings, overrides or ())
    asked = _asked("sweep", file, sweep_pipeline(settings), run_dir, cluster, overrides or ())
    if detach:
        _detach(asked)
    code, folder = _run_graph(asked), asked.folder
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


def _run_pipeline(
    file: Path, overrides: Sequence[str], run_dir: Path | None, cluster: Path | None, detach: bool
) -> None:
    asked = _asked("pipeline", file, load(file, PipelineSettings, overrides), run_dir, cluster, overrides)
    if detach:
        _detach(asked)
    raise typer.Exit(_run_graph(asked))


def _asked(
    verb: str,
    file: Path,
    settings: PipelineSettings,
    run_dir: Path | None,
    cluster: Path | None,
    overrides: Sequence[str],
) -> _Asked:
    where = None if cluster is None else load_cluster(cluster)
    if isinstance(where, RayCluster):
        raise UserError(
            f"{cluster}: backend = ray runs single stages (`swamp submit JOB --cluster {cluster}`); a pipeline holds its graph "
            "in a Ray of its own and runs stages on this machine or as SLURM jobs.\n"
            "Fix: a cluster file with backend: local or slurm; slurm with launcher: ray starts a Ray in every job."
        )
    folder = run_dir or Path("runs") / settings.name
    return _Asked(verb, file, settings, folder, run_dir is not None, cluster, where, tuple(overrides))


def _run_graph(asked: _Asked) -> ExitCode:
    """Run the graph, print its tables and what to do next; FAILED where a stage is not done."""
    from swamp_dist.launch.console import progress
    from swamp_dist.launch.pipeline import run_pipeline

    log_to_console()
    try:
        with progress(Console(stderr=True)) as report:
            statuses = run_pipeline(asked.settings, asked.folder, report, cluster=asked.cluster)
    except KeyboardInterrupt:
        if isinstance(asked.cluster, SlurmCluster):
            say(
                f"jobs that are submitted go on without this command; it follows them again.\n"
                f"end them:    swamp cancel {asked.folder}",
                error=True,
            )
        raise
    failed = [s for s in statuses if s.state != "done"]
    if asked.settings.tables and len(failed) < len(statuses):
        from swamp_dist.launch import tables

        for each in tables.pipeline_tables(asked.settings, asked.folder):
            print_table(each, markdown=False)
    _conclude(asked, statuses, failed)
    return ExitCode.FAILED if failed else ExitCode.DONE


def _conclude(asked: _Asked, statuses: Sequence[StageStatus], failed: Sequence[StageStatus]) -> None:
    for status in failed:
        say(f"{status.state}: {status.key}: {status.message}", error=True)
    for status in statuses if len(statuses) <= 12 else ():
        say(f"run folder:  {status.run_dir}")
    say(f"all runs:    {asked.folder}")
    say(f"curves:      tensorboard --logdir {asked.folder}")
    if failed:
        say(f"next:        {asked.command}  (continues; done stages are skipped)")
    else:
        say(f"next:        {asked.table}")


def _detach(asked: _Asked) -> None:
    """Hand the graph to the scheduler and say how to watch it; does not return."""
    from swamp_dist.launch.detach import hand_over

    if not isinstance(asked.cluster, SlurmCluster):
        raise UserError(
            "--detach: expected a cluster file with `backend: slurm`, whose scheduler keeps the graph.\n"
            "On this machine, start the command in the background instead: nohup swamp ... &"
        )
    log_to_console()
    for handed in hand_over(asked.settings, asked.folder, asked.cluster, sys.argv):
        say(f"{handed.what:<9} {'job ' + handed.job if handed.job else '':<14} {handed.key}")
    say(f"all runs:    {asked.folder}")
    say(f"state:       swamp status {asked.folder}")
    say(f"end it:      swamp cancel {asked.folder}")
    say(f"next:        {asked.command}  (waits for the end and prints the table)")
    raise typer.Exit(ExitCode.DONE)
