"""Verbs that set finished runs side by side: table, compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swamp_dist.cli.app import app
from swamp_dist.cli.printing import PIPE_WIDTH, print_table, say, show, working
from swamp_dist.config import PipelineSettings, Settings, SweepSettings
from swamp_dist.console import open_console
from swamp_dist.errors import UserError
from swamp_dist.loading import kind_of, load

if TYPE_CHECKING:
    from swamp_dist.evaluate.table import ResultTable

Metrics = Annotated[
    list[str] | None,
    typer.Option(
        help="Metrics to show: names, patterns (pair/*/r_at_1) or figures (r_at_1); again or with commas.",
        show_default=False,
    ),
]
_MOST_NAMED = 8
AsJson = Annotated[bool, typer.Option("--json", help="Print for programs to read.")]


@app.command(
    epilog="Examples:  swamp table jobs/pipelines/smoke.yaml  |  "
    "swamp table runs/one runs/two --metrics r_at_1  |  swamp table runs --sort pair/mean/r_at_1 --csv"
)
def table(
    sources: Annotated[
        list[Path], typer.Argument(metavar="PIPELINE | RUN_DIR...", help="A pipeline file, or run folders.")
    ],
    run_dir: Annotated[
        Path | None, typer.Option(help="With a pipeline: its folder. Default: runs/NAME.")
    ] = None,
    metrics: Metrics = None,
    sort: Annotated[
        str | None, typer.Option(help="Metric to sort rows by, the best first.", show_default=False)
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
) -> None:
    """Print the results of finished runs."""
    from swamp_dist.cli.results_table import to_csv, to_json
    from swamp_dist.evaluate.choose import sorted_by

    if markdown + as_json + as_csv > 1:
        raise UserError("--markdown, --json and --csv exclude each other: expected one of them")
    wanted = [*(metrics or ()), *([sort] if sort and metrics else [])]
    built = _built(sources, run_dir, wanted, sort)
    if sort is not None:
        built = [sorted_by(each, sort) for each in built]
    if as_json:
        say(to_json(built))
    elif as_csv:
        say(to_csv(built), end="")
    else:
        for each in built:
            print_table(each, markdown)


def _built(
    sources: Sequence[Path], run_dir: Path | None, metrics: Sequence[str], sort: str | None
) -> list[ResultTable]:
    from swamp_dist.evaluate.choose import with_metrics
    from swamp_dist.pipelines import tables

    if len(sources) == 1 and not sources[0].is_dir():
        if not sources[0].exists() and sources[0].suffix not in (".yaml", ".yml"):
            raise UserError(_no_source(sources[0]))
        settings = _graph(sources[0])
        built = tables.pipeline_tables(settings, run_dir or Path("runs") / settings.name)
        return [with_metrics(each, metrics) for each in built] if metrics else built
    if metrics or sort is None:
        return [tables.runs_table(sources, metrics)]
    usual = tables.runs_table(sources)
    known = any(name == sort or name.endswith(f"/{sort}") for name in usual.metrics)
    return [usual if known else tables.runs_table(sources, [*usual.metrics, sort])]


def _no_source(path: Path) -> str:
    """What is told of a path that is neither a pipeline file nor a folder, with the runs that there are."""
    from swamp_dist.monitor.survey import is_run, no_runs
    from swamp_dist.runs.graph import read_graph

    there = sorted(Path("runs").iterdir()) if Path("runs").is_dir() else []
    named = [str(each) for each in there if each.is_dir() and (is_run(each) or read_graph(each) is not None)]
    more = f", and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    listed = f"\nThere are: {', '.join(named[:_MOST_NAMED])}{more}" if named else ""
    return no_runs(path, "a pipeline file, or run folders") + listed


def _graph(file: Path) -> PipelineSettings:
    kind: type[Settings] = kind_of(file)
    if kind is not SweepSettings:
        return load(file, PipelineSettings)
    from swamp_dist.pipelines.sweep import sweep_pipeline

    return sweep_pipeline(load(file, SweepSettings))


@app.command(
    epilog="Examples:  swamp compare runs/one runs/two  |  "
    "swamp compare runs/table13/*/swamp runs/table13/*/infonce"
)
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Run folders, or folders of runs.", show_default=False),
    ],
    metrics: Metrics = None,
    as_json: AsJson = False,
) -> None:
    """Set runs side by side: settings that differ, figures with paired differences, curves.

    Runs that differ in their seed alone count as one, unless all runs named are such; differences are paired
    seed by seed with the first.
    """
    from swamp_dist.cli.compare_view import comparison_json, comparison_view
    from swamp_dist.pipelines.compare import compare_runs

    with working("reading the runs"):
        found = compare_runs(runs, metrics or ())
    if as_json:
        say(comparison_json(found))
    else:
        show(comparison_view(found, open_console()), width=PIPE_WIDTH)
