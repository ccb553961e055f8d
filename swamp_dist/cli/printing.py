"""What the verbs say and how: tables on a terminal, plain lines in a pipe."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from swamp_dist.launch.settings_view import TABLE_WIDTH, settings_list, settings_table
from swamp_dist.loading import Setting


def show_settings(title: str, settings: Sequence[Setting]) -> None:
    """Print settings as a table, or as a list where the terminal is narrow."""
    console = Console()
    if console.is_terminal and console.width < TABLE_WIDTH:
        console.print(settings_list(title, settings))
    else:
        show(settings_table(title, settings))


def print_table(built: Any, markdown: bool) -> None:
    """Print a table of results."""
    from swamp_dist.evaluate.render import to_markdown, to_rich

    if markdown:
        say(to_markdown(built))
    else:
        for grid in to_rich(built):
            show(grid)


def show(renderable: Any) -> None:
    """Print a rich renderable."""
    console = Console()
    # Piped output has no width of its own; 80 columns would cut the descriptions to slivers.
    (console if console.is_terminal else Console(width=160)).print(renderable)


def say(text: str, error: bool = False, end: str = "\n") -> None:
    """Print one message as it is."""
    typer.echo(text + end, err=error, nl=False)


def refuse(message: str) -> None:
    """Print a mistake of the user and its fix."""
    console = Console(stderr=True)
    if console.is_terminal:
        console.print(Panel(Text(message), title="error", border_style="red", title_align="left"))
    else:  # a log or a pipe: no frame, no wrapping, so that paths stay whole
        say(f"error: {message}", error=True)


def log_to_console() -> None:
    """Let the package's log messages through to the screen."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("swamp_dist").setLevel(logging.INFO)
