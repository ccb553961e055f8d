"""What the verbs say and how: tables on a terminal, plain lines in a pipe."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from rich.panel import Panel

from swamp_dist.cli.settings_table import TABLE_WIDTH, settings_list, settings_table
from swamp_dist.config import StageSettings
from swamp_dist.console import block, open_console
from swamp_dist.loading import Setting
from swamp_dist.long_work import FIRST_SECONDS, told_while
from swamp_dist.printable import log_lines_to, printable

PIPE_WIDTH = 2000
"""Columns where nobody's terminal sets them: lines stay whole for those who search them."""


def show_settings(title: str, settings: Sequence[Setting]) -> None:
    """Print settings as a table, or as a list where the terminal is narrow."""
    console = open_console()
    if console.is_terminal and console.width < TABLE_WIDTH:
        console.print(settings_list(title, settings))
    else:
        show(settings_table(title, settings))


def print_table(built: Any, markdown: bool) -> None:
    """Print a table of results."""
    from swamp_dist.cli.results_table import fitted
    from swamp_dist.evaluate.render import to_markdown

    if markdown:
        say(to_markdown(built))
    else:
        show(fitted(built, open_console()), width=PIPE_WIDTH)


def show(renderable: Any, width: int = 160) -> None:
    """Print a rich renderable; `width`: columns in a pipe, which has none of its own."""
    console = open_console()
    (console if console.is_terminal else open_console(width=width)).print(renderable)


def say(text: str, error: bool = False, end: str = "\n") -> None:
    """Print one message, whose line ends stay and whose other control characters are written out."""
    typer.echo(printable(text) + end, err=error, nl=False)


def say_prose(text: str, error: bool = False) -> None:
    """Print sentences: wrapped between words on a terminal, as they are in a pipe."""
    console = open_console(error=error)
    if console.is_terminal:
        console.print(block(text))
    else:
        say(text, error=error)


def warn_of(settings: StageSettings) -> None:
    """Print what may well go wrong with a stage, and what is known of it."""
    from swamp_dist.stage.advice import known_notes, stage_warnings

    for text in stage_warnings(settings):
        say_prose(f"warning: {text}", error=True)
    for text in known_notes(settings):
        say_prose(text, error=True)


def refuse(message: str) -> None:
    """Print a mistake of the user and its fix."""
    console = open_console(error=True)
    if console.is_terminal:
        console.print(Panel(block(message), title="error", border_style="red", title_align="left"))
    else:  # a log or a pipe: no frame, no wrapping, so that paths stay whole
        say(f"error: {message}", error=True)


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Tell on stderr that work goes on, where the block takes long."""
    teller = logging.Logger("swamp_dist.working", logging.INFO)  # nothing else is told that was not before
    teller.addHandler(logging.StreamHandler(sys.stderr))
    with told_while(teller, printable(what, one_line=True), again=FIRST_SECONDS):
        yield


def log_to_console() -> None:
    """Let the package's log messages through to the screen."""
    log_lines_to(sys.stderr, logging.WARNING)
    logging.getLogger("swamp_dist").setLevel(logging.INFO)
