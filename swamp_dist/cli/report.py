"""The verb that puts all of a run, pipeline or sweep into one page."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from swamp_dist.cli.app import app
from swamp_dist.cli.printing import say, working
from swamp_dist.cli.tables import Metrics
from swamp_dist.errors import UserError

PAGE = "report.html"


@app.command(
    epilog="Examples:  swamp report runs/mine --examples  |  swamp report jobs/pipelines/smoke.yaml  |  "
    "swamp report jobs/sweeps/table13.yaml --out table13.html"
)
def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN | PIPELINE | SWEEP",
            help="Run folder, folder of runs, or the file of a pipeline or sweep.",
            show_default=False,
        ),
    ],
    run_dir: Annotated[
        Path | None, typer.Option(help="With a pipeline or sweep file: its folder. Default: runs/NAME.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Page to write. Default: report.html in the folder of the runs.")
    ] = None,
    metrics: Metrics = None,
    examples: Annotated[
        bool,
        typer.Option("--examples", help="Show what queries of the best run find; reads data and weights."),
    ] = False,
    prototypes: Annotated[
        bool,
        typer.Option("--prototypes", help="Draw the sheet of prototypes; reads data and weights as well."),
    ] = False,
    split: Annotated[
        str | None,
        typer.Option(help="Split of examples and prototypes. Default: that of the first evaluation."),
    ] = None,
    beside: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Another run: show what ten drawn queries find in the best run and in this one; reads data "
            "and weights.",
        ),
    ] = None,
) -> None:
    """Write one HTML page about a run, a pipeline or a sweep. It needs no network and no other file.

    It holds tables with intervals, curves, settings that differ, alarms, cost and provenance; and, where
    asked for, retrieval examples and prototypes.
    """
    if out is not None and out.is_dir():
        raise UserError(f"--out {out} is a folder: expected the page to write, for example {out / PAGE}")
    if split is not None and not (examples or prototypes or beside):
        raise UserError("--split says of what to show examples or prototypes: add --examples or --prototypes")
    folder = [] if run_dir is None else ["--run-dir", str(run_dir)]
    command = shlex.join(["swamp", "report", str(source), *folder])
    with working("building the report"):
        from swamp_dist.atomic_files import write_atomically
        from swamp_dist.report.build import Asked, build_report
        from swamp_dist.report.subject import open_subject

        subject = open_subject(source, run_dir)
        asked = Asked(command, tuple(metrics or ()), examples, prototypes, split, beside)
        made = build_report(subject, asked)
    file = out or subject.folder / PAGE
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, made.html)
    for what, how in made.left_out:
        say(f"left out:    {what}: {how}")
    say(f"written:     {file} ({len(made.html.encode()) / 1000:,.0f} kB)")
