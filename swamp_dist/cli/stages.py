"""Verbs of a single job file: run it, show it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swamp_dist.cli.app import Overrides, app
from swamp_dist.cli.ending import say_ending
from swamp_dist.cli.printing import say, say_prose, show_settings, warn_of
from swamp_dist.cli.printing import show as show_on_console
from swamp_dist.config import (
    PipelineSettings,
    Settings,
    ShardSettings,
    StageSettings,
    SweepSettings,
)
from swamp_dist.config.own_tars import import_hint
from swamp_dist.file_names import MANIFEST_FILE
from swamp_dist.loading import describe, kind_of, load
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.stage_file import is_run_stage, load_stage
from swamp_dist.stage.partner_lines import partner_lines

_KINDS: dict[type[Settings], str] = {
    StageSettings: "job",
    ShardSettings: "shard recipe",
    PipelineSettings: "pipeline",
    SweepSettings: "sweep",
}


@app.command(epilog="Example:  swamp run jobs/finetune/msrvtt.yaml train.epochs=3 --ranks 2")
def run(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="Job file.", show_default=False)],
    overrides: Overrides = None,
    ranks: Annotated[int, typer.Option(help="Processes on this machine; one per GPU.", min=1)] = 1,
    run_dir: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/NAME of the job.")] = None,
) -> None:
    """Run one stage on this machine. The same command again continues it.

    Ctrl-C, SIGTERM, SIGUSR2 and a closed terminal save at the next step and end with code 75.
    A second Ctrl-C kills at once (code 130); what was committed stays.
    """
    settings = load_stage(job, overrides or ())
    folder = RunDir(run_dir or Path("runs") / settings.name)
    raise typer.Exit(run_here(settings, folder, ranks))


def run_here(settings: StageSettings, folder: RunDir, ranks: int) -> int:
    """Check a stage, run it on this machine to its end and say what comes next; the exit code."""
    from swamp_dist import local_stage

    code = local_stage.run_here(settings, folder, ranks, say, warn_of)
    say_ending(code, folder)
    return code


@app.command(
    epilog="Examples:  swamp show jobs/finetune/msrvtt.yaml train.optimizer.lr=3e-5  |  "
    "swamp show --cost jobs/pretrain/synthetic.yaml --nodes 4"
)
def show(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Job file, shard recipe, pipeline or cluster.", show_default=False
        ),
    ],
    overrides: Overrides = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only settings that are not the default.")
    ] = False,
    cost: Annotated[
        bool,
        typer.Option("--cost", help="Of a job: compute, memory and bytes sent per step and rank instead."),
    ] = False,
    nodes: Annotated[int, typer.Option(help="With --cost: largest number of nodes.", min=1)] = 1,
    gpus_per_node: Annotated[int, typer.Option(help="With --cost: ranks per node, one per GPU.", min=1)] = 8,
) -> None:
    """Check a file and explain every setting it resolves to."""
    kind = kind_of(file)
    settings: Settings = load(file, kind, overrides or (), is_dump=is_run_stage(file))
    if cost:
        from swamp_dist.costs.table import cost_table

        show_on_console(cost_table(settings, nodes, gpus_per_node))
        return
    what = _KINDS.get(kind, "cluster")
    shown = [s for s in describe(settings) if not (changed and s.is_default)]
    show_settings(f"{file} ({what})", shown)
    if isinstance(settings, StageSettings):
        _warn_of_tars(settings)
    if isinstance(settings, StageSettings) and settings.train is not None:
        warn_of(settings)
        for line in partner_lines(settings):
            say_prose(f"\npartners: {line}.")
        balance = settings.objective.balance(settings.data.entries * settings.data.pairs_per_entry)
        if balance is not None:
            say_prose(f"\n{balance}.")


def _warn_of_tars(settings: StageSettings) -> None:
    """Say where a folder is no shard set, but holds tars that can become one."""
    for folder in settings.shard_sets:
        hint = import_hint(folder)
        if hint and not (folder / MANIFEST_FILE).is_file():
            say_prose(f"\nwarning: no shard set at {folder}: there is no {MANIFEST_FILE} in it. {hint}.")
