"""The verb that evaluates a trained run without a job file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swamp_dist.cli.app import app
from swamp_dist.cli.stages import run_here
from swamp_dist.loading import override_texts
from swamp_dist.runs.folder import RunDir


@app.command(
    name="eval",
    epilog="Examples:  swamp eval runs/msrvtt --split test  |  swamp eval runs/scan-t2i --with runs/scan-i2t",
)
def evaluate(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="Run folder, RUN@STEP, or weights inside a run.", show_default=False
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings of the run to change.", show_default=False),
    ] = None,
    with_runs: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="RUN", help="Average the scores of all pairs with this run's."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split to evaluate on. Default: the evaluations of the run.")
    ] = None,
    ranks: Annotated[int, typer.Option(help="Processes on this machine; one per GPU.", min=1)] = 1,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of the evaluation. Default: beside the run.")
    ] = None,
) -> None:
    """Evaluate a trained run, alone or together with others, and print its figures.

    With `--with`, the scores of every pair are averaged over all runs before they are ranked, like the
    "t-i + i-t" rows of the paper's tables. Each run has its own encoders; the splits hold the same entries.
    """
    from swamp_dist.local_stage import evaluation_of

    others = with_runs or []
    changes = override_texts({"average_with": others}) if others else []
    settings, folder = evaluation_of(run, split, [*changes, *(overrides or ())])
    if others and run_dir is None:
        folder = folder.with_name(f"{folder.name}+{'+'.join(each.name for each in others)}")
    raise typer.Exit(run_here(settings, RunDir(run_dir or folder), ranks))
