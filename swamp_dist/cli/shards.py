"""Verbs of shard sets: build and verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swamp_dist.cli.app import Overrides, shards_app
from swamp_dist.cli.printing import log_to_console, say
from swamp_dist.config import ShardSettings
from swamp_dist.launch.local import ExitCode
from swamp_dist.loading import load


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

    log_to_console()
    folder = out or Path("data") / settings.name
    build_shards(settings, folder, force=force)
    say(f"shards:  {folder}")
    say(f"check:   swamp shards verify {folder}")


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
        say(str(problem), error=True)
    if problems:
        say(
            f"{folder}: {len(problems)} bad files; build again with `swamp shards build RECIPE --force`",
            error=True,
        )
        raise typer.Exit(ExitCode.FAILED)
    say(f"{folder}: every file is as the manifest says")
