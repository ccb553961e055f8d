"""Verbs that look at runs and stop them: status, logs, cancel."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live

from swamp_dist.cli.app import app
from swamp_dist.cli.printing import PIPE_WIDTH, say, show
from swamp_dist.console import open_console
from swamp_dist.errors import ExitCode, UserError

_RUNS = Path("runs")
_LOOK_SECONDS = 2.0
_LIVE_SECONDS = 1.0
_MOST_NAMED = 8
_FEWEST_ROWS, _LINES_AROUND = 3, 5
"""Runs that a live view shows at least, and lines of a group beside its runs."""


@app.command(epilog="Examples:  swamp status  |  swamp status runs/smoke --watch  |  swamp status --json")
def status(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUNS]...", help="Run folders, pipelines' folders or trees. Default: runs/."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print for programs to read.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh every 2 seconds until nothing runs any more.")
    ] = False,
    stalled_after: Annotated[
        float, typer.Option(help="Seconds without a sign after which a live run counts as stalled.", min=1)
    ] = 600.0,
) -> None:
    """Show how runs stand: state, step, speed, time left, restarts, metric, why they ended.

    Nothing is touched.
    """
    from swamp_dist.cli.status_table import status_grid
    from swamp_dist.monitor.builds import live_builds
    from swamp_dist.monitor.survey import survey

    folders = runs or [_RUNS]
    builds = live_builds(folders)
    only_builds = builds and not runs and not _RUNS.is_dir()  # they come before any run
    groups, error = ([], "") if only_builds else survey(folders, stalled_after)
    if as_json:
        if watch:
            raise UserError("--json and --watch exclude each other: expected one of them")
        described = {
            "scheduler_error": error,
            "groups": [asdict(group) for group in groups],
            "builds": [asdict(build) for build in builds],
        }
        say(json.dumps(described, default=str, indent=1))
    elif watch:
        _watch(folders, stalled_after)
    else:
        console = open_console()
        room = console.width if console.is_terminal else None
        show(status_grid(groups, error, room, builds=builds), width=PIPE_WIDTH)


def _watch(folders: list[Path], stalled_after: float) -> None:
    """Draw again and again; ends by itself once nothing is live."""
    from swamp_dist.cli.status_table import status_grid
    from swamp_dist.monitor.builds import live_builds
    from swamp_dist.monitor.state import LIVE
    from swamp_dist.monitor.survey import survey

    console = open_console()
    console = console if console.is_terminal else open_console(width=160)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            groups, error = survey(folders, stalled_after)
            rows = max(_FEWEST_ROWS, console.height - _LINES_AROUND * len(groups))
            builds = live_builds(folders)
            live.update(status_grid(groups, error, console.width, rows, builds), refresh=True)
            busy = bool(builds) or any(group.driver == "alive" for group in groups)
            if not busy and not any(run.state in LIVE for group in groups for run in group.runs):
                return
            time.sleep(_LOOK_SECONDS)


@app.command(epilog="Examples:  swamp logs runs/mine --follow  |  swamp logs runs/mine --rank 1 --lines 0")
def logs(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.", show_default=False)],
    rank: Annotated[int | None, typer.Option(help="The log of this rank.", min=0)] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run ends.")] = False,
    lines: Annotated[int, typer.Option(help="Last lines to show; 0: all.", min=0)] = 50,
) -> None:
    """Print the right log of a run, with a line where it was started again."""
    from swamp_dist.monitor.logs import find_logs, lines_of
    from swamp_dist.monitor.logs import follow as follow_log
    from swamp_dist.runs.folder import RunDir
    from swamp_dist.runs.graph import read_graph

    folder = RunDir(run)
    if not folder.logs.is_dir() or read_graph(run) is not None:  # a pipeline has an empty logs/ of its own
        raise UserError(_no_logs(run))
    found = find_logs(folder, rank)
    for log in found:
        if len(found) > 1 or log.what != "rank 0":
            say(f"==== {log.what}: {log.path} ====")
        most = lines or None
        last = log is found[-1]
        shown = (
            follow_log(folder, log, most, _liveness(run)) if follow and last else lines_of(folder, log, most)
        )
        for line in shown:
            say(line)


def _no_logs(run: Path) -> str:
    """Why a folder has no log to show, with the folders that have."""
    from swamp_dist.monitor.overview import overview
    from swamp_dist.monitor.survey import no_runs, survey
    from swamp_dist.runs.graph import read_graph

    said = f"{run} is no run folder: it has no logs/.\nFix: name a folder that `swamp status` lists."
    if run.is_file():
        return no_runs(run, "a run folder")
    try:
        groups, _ = survey([run])
    except UserError:
        return said
    inside = [each for group in groups for each in overview(group.runs).shown if each.run_dir != run]
    named = [f"  swamp logs {shlex.quote(str(each.run_dir))}  ({each.state})" for each in inside]
    if not named:
        return said
    what = "the folder of a pipeline" if read_graph(run) is not None else "a folder of runs"
    more = (
        f"\n  ... and {len(named) - _MOST_NAMED} more: swamp status {run}" if len(named) > _MOST_NAMED else ""
    )
    return f"{run} is {what}: name one of its runs:\n" + "\n".join(named[:_MOST_NAMED]) + more


def _liveness(run: Path) -> Any:
    """Whether a run is live, looked up at most once per second."""
    from swamp_dist.monitor.state import LIVE
    from swamp_dist.monitor.survey import status_of

    known = (0.0, True)

    def live() -> bool:
        nonlocal known
        if time.monotonic() - known[0] > _LIVE_SECONDS:
            known = (time.monotonic(), status_of(run).state in LIVE)
        return known[1]

    return live


@app.command(epilog="Examples:  swamp cancel runs/mine  |  swamp cancel runs/smoke --now")
def cancel(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders or pipelines' folders.", show_default=False),
    ],
    now: Annotated[bool, typer.Option("--now", help="Kill at once instead of asking to save.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a local run to end.", min=0)] = 30.0,
) -> None:
    """Stop runs so that they save and end: SIGTERM, or scancel where they were submitted. They can continue.

    Only a process that is proven to be the run is signalled. Code 1 where something could not be reached.
    """
    from swamp_dist.monitor.cancel import cancel as cancel_run
    from swamp_dist.runs.folder import RunDir

    reached, unfinished = True, False
    for run in runs:
        for done in cancel_run(run, now, wait):
            say(f"{done.run_dir}: {done.said}", error=not done.stopped)
            reached &= done.stopped
            unfinished |= not RunDir(done.run_dir).done
    if reached and unfinished:
        say("to continue: the command that started it; to see how it stands: swamp status")
    raise typer.Exit(ExitCode.DONE if reached else ExitCode.FAILED)
