"""Verb that begins a folder to work in: init."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from swamp_dist.cli.app import app
from swamp_dist.cli.printing import say


@app.command(epilog="Example:  swamp init my_project, then  cd my_project,  swamp smoke")
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Made if it is not there.", show_default=False)
    ] = Path(),
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that differ from the shipped ones.")
    ] = False,
) -> None:
    """Lay down jobs, shard recipes and a README in a folder; files that are there already are kept."""
    from swamp_dist.starter.lay_down import lay_down

    done = lay_down(folder, replace=force)
    say(f"written:  {len(done.written)} files in {folder.resolve()}")
    if done.same:
        say(f"same:     {len(done.same)} files are there as shipped")
    if done.changed:
        what = "replaced" if force else "kept"
        say(f"{what + ':':<9} {len(done.changed)} files that differ from the shipped ones:")
        for name in done.changed:
            say(f"          {name}")
        if not force:
            say("          swamp init --force would replace them by the shipped ones")
    there = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    say(f"next:     {there}swamp smoke")
