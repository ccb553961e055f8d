"""Verbs of shard sets: build, verify and index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swamp_dist.cli.app import Overrides, shards_app
from swamp_dist.cli.printing import log_to_console, say
from swamp_dist.config import ClusterSettings, ShardSettings
from swamp_dist.errors import ExitCode, UserError
from swamp_dist.file_names import MANIFEST_FILE
from swamp_dist.loading import load, load_cluster


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
    cluster: Annotated[
        Path | None, typer.Option(help="SLURM cluster file: build by jobs there.", show_default=False)
    ] = None,
    parts: Annotated[
        int,
        typer.Option(min=1, help="With --cluster: jobs that build side by side; one more closes the set."),
    ] = 1,
) -> None:
    """Build a shard set from a recipe; a build that was stopped goes on from its finished shards."""
    settings = load(recipe, ShardSettings, overrides or ())
    if cluster is not None:
        if ray or force or part is not None or workers > 1:
            raise UserError("--cluster: leave out --ray, --workers, --part and --force; give --parts N")
        _submit_build(settings, out or Path("data") / settings.name, load_cluster(cluster), parts)
        return
    if parts > 1:
        raise UserError("--parts: jobs of a cluster; name its file with --cluster")
    own_part = parse_part(part) if part is not None else None
    if ray and workers > 1:
        raise UserError(
            "--ray and --workers: give one of them; with --ray, Ray decides where shards are built"
        )
    from swamp_dist.prepare.build import BuildWorkers, build_part, build_shards, read_coverage
    from swamp_dist.progress import WorkProgress

    log_to_console()
    folder, builders = out or Path("data") / settings.name, BuildWorkers(workers, ray)
    with WorkProgress(settings.name, "{done} of {total} shards") as progress:
        if own_part is not None:
            build_part(settings, folder, own_part, force, builders, progress.show)
            say(f"close:   the same command without --part, when all {own_part[1]} parts have ended")
            return
        build_shards(settings, folder, force, builders, progress.show)
    say(read_coverage(folder)[1], end="")
    say(f"shards:  {folder}")
    say(f"check:   swamp shards verify {folder}")


def _submit_build(settings: ShardSettings, out: Path, cluster: ClusterSettings, parts: int) -> None:
    """Hand the build to a scheduler and say how to watch it."""
    from swamp_dist.backends.protocols import BuildBackend
    from swamp_dist.backends.registry import open_backend
    from swamp_dist.prepare.build import build_shards
    from swamp_dist.prepare.jobs import submit_build

    backend = open_backend(cluster)
    if not isinstance(backend, BuildBackend):
        raise UserError("--cluster: expected a file with `backend: slurm`; here, use --workers N")
    log_to_console()
    if (out / MANIFEST_FILE).is_file():
        build_shards(settings, out)  # keeps it, or refuses that of another recipe
        say(f"{out} is built already: nothing to submit")
        return
    jobs = submit_build(settings, out, backend, parts)
    if jobs.found:
        say(f"job {jobs.closing} builds {out} already: nothing was submitted")
    elif jobs.parts is not None:
        say(f"parts:   job {jobs.parts}, {parts} tasks")
    say(f"close:   job {jobs.closing}")
    say(f"logs:    {jobs.folder.job_logs}")
    submitted = [job for job in (jobs.parts, jobs.closing) if job is not None]
    say(f"state:   {backend.commands(submitted)['state']}")
    say(f"check:   swamp shards verify {out}")


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
    """Compare every shard with the manifest (size, sha256, entries), and a published set with its counts."""
    from swamp_dist.data.manifest import read_manifest
    from swamp_dist.data.verify import verify_shards
    from swamp_dist.prepare.explain import explain_set

    problems = verify_shards(folder)
    for problem in problems:
        say(str(problem), error=True)
    if problems:
        fix = "build again with `swamp shards build RECIPE --force`"
        if all(problem.is_payload_index for problem in problems):
            fix = f"write them again with `swamp shards index {folder}`"
        say(f"{folder}: {len(problems)} bad files; {fix}", error=True)
        raise typer.Exit(ExitCode.FAILED)
    say(f"{folder}: every file is as the manifest says")
    manifest = read_manifest(folder)
    if any(split.payloads is None for split in manifest.record.splits.values()):
        say(f"  no payload index, with which entries are read faster: `swamp shards index {folder}` adds it")
    for line in explain_set(manifest):
        say(f"  {line}")


@shards_app.command("index", epilog="Example:  swamp shards index data/synthetic")
def shards_index(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of a shard set.", show_default=False)
    ],
) -> None:
    """Write the payload indexes of a set again, or of one built without; every shard is verified first."""
    from swamp_dist.data.indexing import index_set

    log_to_console()
    manifest = index_set(folder)
    names = [split.payloads.file for split in manifest.record.splits.values() if split.payloads is not None]
    say(f"{folder}: wrote {', '.join(names)}; the set keeps its hash")
