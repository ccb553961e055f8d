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
from swamp_dist.records import UserError


@shards_app.command("build", epilog="Example:  swamp shards build shards/synthetic.yaml --out data/synthetic")
def shards_build(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Shard recipe.", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to build. Default: data/NAME of the recipe.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a set that is there already.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Child processes that build shards side by side.")] = 1,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Build only the shards s with s mod N = I, for example 0/8, and do not close the set: for "
            "SLURM arrays and several hosts. The command without --part then closes it.",
        ),
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Build on the Ray at RAY_ADDRESS, or on one of our own.")
    ] = False,
) -> None:
    """Build a shard set from a recipe; a build that was stopped goes on from its finished shards."""
    settings = load(recipe, ShardSettings, overrides or ())
    own_part = parse_part(part) if part is not None else None
    if ray and workers > 1:
        raise UserError(
            "--ray and --workers: give one of them; with --ray, Ray decides where shards are built"
        )
    from rich.console import Console

    from swamp_dist.launch.build_progress import shard_progress
    from swamp_dist.launch.shards import Hands, build_part, build_shards, read_coverage

    log_to_console()
    folder, hands = out or Path("data") / settings.name, Hands(workers, ray)
    with shard_progress(settings.name, Console(stderr=True)) as report:
        if own_part is not None:
            build_part(settings, folder, own_part, force, hands, report)
            say(f"close:   the same command without --part, when all {own_part[1]} parts have ended")
            return
        build_shards(settings, folder, force, hands, report)
    say(read_coverage(folder)[1], end="")
    say(f"shards:  {folder}")
    say(f"check:   swamp shards verify {folder}")


def parse_part(text: str) -> tuple[int, int]:
    """`I/N` as two numbers with 0 <= I < N.

    Raises:
        UserError: anything else.
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"--part {text}: expected I/N with 0 <= I < N, for example 0/8 to 7/8")
    return int(index), int(count)


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
