"""The `swamp` command: verbs only. Each reads its files, calls one function and prints."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text
from typer.core import TyperGroup

from swamp_dist.config import PipelineSettings, Settings, ShardSettings, StageSettings
from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.rundir import RunDir, RunDirHeld
from swamp_dist.launch.settings_view import TABLE_WIDTH, settings_list, settings_table
from swamp_dist.loading import Setting, describe, kind_of, load
from swamp_dist.records import UserError

if TYPE_CHECKING:
    from swamp_dist.launch.console import StageStatus

SMOKE = Path("jobs/pipelines/smoke.yaml")


class _Verbs(TyperGroup):
    """Turns what a user can mend into a message and an exit code; anything else keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _refuse(str(error))
            raise typer.Exit(
                ExitCode.HELD if isinstance(error, RunDirHeld) else ExitCode.USER_MISTAKE
            ) from None
        except KeyboardInterrupt:
            _say("interrupted; the same command continues", error=True)
            raise typer.Exit(ExitCode.INTERRUPTED) from None


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Distributed training for cross-modal retrieval with SwAMP.\n\n"
    "First steps: [bold]swamp smoke[/] runs a small pipeline end to end; "
    "[bold]swamp show jobs/FILE.yaml[/] explains every setting of a file.\n\n"
    "Exit codes: 0 done, 2 a mistake in what was asked, 3 the run folder is held by another run, "
    "75 progress saved and to be started again (Ctrl-C once, SIGTERM, SIGUSR2), 130 killed by a second "
    "Ctrl-C, 1 anything else.",
)
shards_app = typer.Typer(
    no_args_is_help=True,
    help="Build and check shard sets.",
    epilog="Example:  swamp shards build shards/synthetic.yaml, then  swamp shards verify data/synthetic",
)
app.add_typer(shards_app, name="shards")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings to change, with dotted keys: train.optimizer.lr=3e-5",
        show_default=False,
    ),
]


@app.command(epilog="Example:  swamp run jobs/finetune/msrvtt.yaml train.epochs=3 --ranks 2")
def run(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="Job file.", show_default=False)],
    overrides: Overrides = None,
    ranks: Annotated[int, typer.Option(help="Processes on this machine; one a GPU.", min=1)] = 1,
    run_dir: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/NAME of the job.")] = None,
) -> None:
    """Run one stage on this machine. The same command again continues it.

    Ctrl-C, SIGTERM and SIGUSR2 save at the next step and end with code 75.
    A second Ctrl-C kills at once (code 130); what was committed stays.
    """
    from swamp_dist.launch.finished import check_finished
    from swamp_dist.launch.local import run_ranks

    settings = load(job, StageSettings, overrides or ())
    folder = RunDir(run_dir or Path("runs") / settings.name)
    check_finished(folder, settings)
    if not folder.done:
        from swamp_dist.launch.preflight import check_stage

        folder.refuse_if_held()
        check_stage(settings, folder, ranks)
        folder.write_stage(settings)
    code = run_ranks(folder.stage_yaml, folder.path, ranks, report=_say)
    if code == ExitCode.DONE:
        _say(f"run folder:  {folder.path}")
        _say(f"curves:      tensorboard --logdir {folder.path}")
        _say(f"next:        swamp table {folder.path}")
    elif code == ExitCode.REQUEUE:
        _say("stopped with its progress saved; the same command continues")
    raise typer.Exit(code)


@app.command(
    epilog="Examples:  swamp show jobs/finetune/msrvtt.yaml train.optimizer.lr=3e-5  |  "
    "swamp show --cost jobs/pretrain/synthetic.yaml --nodes 4"
)
def show(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Job file, shard recipe or pipeline.", show_default=False)
    ],
    overrides: Overrides = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only settings that are not the default.")
    ] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="Of a job: compute, memory and bytes sent a step and rank instead.")
    ] = False,
    nodes: Annotated[int, typer.Option(help="With --cost: largest number of nodes.", min=1)] = 1,
    gpus_per_node: Annotated[int, typer.Option(help="With --cost: ranks of a node, one a GPU.", min=1)] = 8,
) -> None:
    """Check a file and explain every setting it resolves to."""
    kind = kind_of(file)
    settings: Settings = load(file, kind, overrides or ())
    if cost:
        from swamp_dist.launch.cost_table import cost_table

        _print(cost_table(settings, nodes, gpus_per_node))
        return
    what = {StageSettings: "job", ShardSettings: "shard recipe", PipelineSettings: "pipeline"}[kind]
    shown = [s for s in describe(settings) if not (changed and s.is_default)]
    _show_settings(f"{file} ({what})", shown)


@shards_app.command("build", epilog="Example:  swamp shards build shards/synthetic.yaml --out data/synthetic")
def shards_build(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Shard recipe.", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to build. Default: data/NAME of the recipe.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a set that is there already.")] = False,
) -> None:
    """Build a shard set from a recipe."""
    settings = load(recipe, ShardSettings, overrides or ())
    from swamp_dist.launch.shards import build_shards

    _log_to_console()
    folder = out or Path("data") / settings.name
    build_shards(settings, folder, force=force)
    _say(f"shards:  {folder}")
    _say(f"check:   swamp shards verify {folder}")


@shards_app.command("verify", epilog="Example:  swamp shards verify data/synthetic")
def shards_verify(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of a shard set.", show_default=False)
    ],
) -> None:
    """Compare every shard with the manifest: size, sha256, entries."""
    from swamp_dist.data.verify import verify_shards

    problems = verify_shards(folder)
    for problem in problems:
        _say(str(problem), error=True)
    if problems:
        _say(
            f"{folder}: {len(problems)} bad files; build again with `swamp shards build RECIPE --force`",
            error=True,
        )
        raise typer.Exit(ExitCode.FAILED)
    _say(f"{folder}: every file is as the manifest says")


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
        built = tables.pipeline_table(settings, run_dir or Path("runs") / settings.name)
    else:
        built = tables.runs_table(sources)
    _print_table(built, markdown)


def _run_pipeline(file: Path, overrides: Sequence[str], run_dir: Path | None) -> None:
    from swamp_dist.launch.console import progress
    from swamp_dist.launch.pipeline import run_pipeline

    settings = load(file, PipelineSettings, overrides)
    folder = run_dir or Path("runs") / settings.name
    _log_to_console()
    with progress(Console(stderr=True)) as report:
        statuses = run_pipeline(settings, folder, report)
    failed = [s for s in statuses if s.state != "done"]
    if settings.table is not None and len(failed) < len(statuses):
        from swamp_dist.launch import tables

        _print_table(tables.pipeline_table(settings, folder), markdown=False)
    _conclude(file, folder, statuses, failed, given=run_dir is not None)
    raise typer.Exit(ExitCode.FAILED if failed else ExitCode.DONE)


def _conclude(
    file: Path, folder: Path, statuses: Sequence[StageStatus], failed: Sequence[StageStatus], given: bool
) -> None:
    for status in failed:
        _say(f"{status.state}: {status.key}: {status.message}", error=True)
    option = f" --run-dir {folder}" if given else ""
    for status in statuses if len(statuses) <= 12 else ():
        _say(f"run folder:  {status.run_dir}")
    _say(f"all runs:    {folder}")
    _say(f"curves:      tensorboard --logdir {folder}")
    verb = f"swamp pipeline {file}" if failed else f"swamp table {file}"
    _say(f"next:        {verb}{option}" + ("  (continues; done stages are skipped)" if failed else ""))


# -- printing --------------------------------------------------------------------------------------


def _show_settings(title: str, settings: Sequence[Setting]) -> None:
    console = Console()
    if console.is_terminal and console.width < TABLE_WIDTH:
        console.print(settings_list(title, settings))
    else:
        _print(settings_table(title, settings))


def _print_table(built: Any, markdown: bool) -> None:
    from swamp_dist.evaluate.render import to_markdown, to_rich

    if markdown:
        _say(to_markdown(built))
    else:
        for grid in to_rich(built):
            _print(grid)


def _print(renderable: Any) -> None:
    console = Console()
    # Piped output has no width of its own; 80 columns would cut the descriptions to slivers.
    (console if console.is_terminal else Console(width=160)).print(renderable)


def _say(text: str, error: bool = False) -> None:
    typer.echo(text, err=error)


def _refuse(message: str) -> None:
    console = Console(stderr=True)
    if console.is_terminal:
        console.print(Panel(Text(message), title="error", border_style="red", title_align="left"))
    else:  # a log or a pipe: no frame, no wrapping, so that paths stay whole
        _say(f"error: {message}", error=True)


def _log_to_console() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("swamp_dist").setLevel(logging.INFO)


def main() -> None:
    """Entry point of the console command."""
    app()
