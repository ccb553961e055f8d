"""What a command says when its stage has ended: what was reached, and what comes next."""

from __future__ import annotations

import shlex

from rich.table import Table

from swamp_dist.cli.printing import say, show
from swamp_dist.config import StageSettings
from swamp_dist.console import block, cell
from swamp_dist.errors import ExitCode
from swamp_dist.evaluate.figures import figure_rows
from swamp_dist.loading import load_dumped
from swamp_dist.monitor.reached import Reached, reached
from swamp_dist.progress import duration
from swamp_dist.records import EvaluationResult
from swamp_dist.runs.folder import RunDir


def say_ending(code: int, folder: RunDir) -> None:
    """What comes next after a stage that ran while the command waited."""
    if code == ExitCode.DONE:
        _say_reached(reached(folder))
        _say_no_validation(folder)
        _say_alarms(folder)
        named = shlex.quote(str(folder.path))
        result = folder.read_result()
        evaluations = result.evaluations if result is not None else ()
        for each in evaluations:
            show(evaluation_table(each))
        say(f"run folder:  {folder.path}")
        if result is not None and result.selected_step is not None:
            say(f"curves:      tensorboard --logdir {named}")
        say(f"next:        swamp {'table' if evaluations else 'status'} {named}")
    elif code == ExitCode.REQUEUE:
        say("stopped with its progress saved; the same command continues")


def evaluation_table(result: EvaluationResult) -> Table:
    """An evaluation as a table that fits in 80 columns: one row per relevance and direction."""
    headings, rows = figure_rows(result)
    table = Table(box=None, pad_edge=False, caption=block(result.note) if result.note else None)
    for place, heading in enumerate(headings):
        table.add_column(cell(heading), justify="right" if place else "left")
    for row in rows:
        table.add_row(*map(cell, row))
    return table


def _say_reached(found: Reached) -> None:
    if found.steps is not None:
        starts = f", {found.starts} starts" if found.starts > 1 else ""
        say(f"trained:     {found.steps} steps; {duration(found.seconds)} in all{starts}")
    if found.validation.best is not None:
        best, last = found.validation, found.validation.last
        at = "" if best.best_step is None else f" at step {best.best_step}"
        ended = "" if last is None else f", last {last:.2f}"
        say(f"validation:  {best.metric}: best {best.best:.2f}{at}{ended}")
    if found.weights is not None:
        how = "" if found.selected is None else f" (of step {found.selected})"
        say(f"weights:     {found.weights}{how}")


def _say_no_validation(folder: RunDir) -> None:
    """Why a run that was to validate has no figure of it."""
    settings = load_dumped(folder.stage_yaml, StageSettings) if folder.stage_yaml.is_file() else None
    train = None if settings is None else settings.train
    if train is not None and (every := train.never_reached) is not None:
        say(f"validation:  none: every {every} epochs, and the run had {train.epochs}")


def _say_alarms(folder: RunDir) -> None:
    """The alarms of the training, those that were cleared too: its figures may not be worth much."""
    result = folder.read_result()
    for alarm in () if result is None else result.alarms:
        cleared = "" if alarm.cleared is None else f" (cleared at step {alarm.cleared})"
        say(f"alarm:       {alarm.message}{cleared}")
