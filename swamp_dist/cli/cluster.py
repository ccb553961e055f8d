"""Verb of jobs on a cluster: submit."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from swamp_dist.cli.app import Overrides, app
from swamp_dist.cli.ending import say_ending
from swamp_dist.cli.printing import say, warn_of
from swamp_dist.config import ClusterSettings, SizedCluster
from swamp_dist.errors import ExitCode, RunDirHeld, UserError
from swamp_dist.loading import load_cluster
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.stage_file import load_stage

if TYPE_CHECKING:
    from swamp_dist.backends.protocols import Backend, StageRef
    from swamp_dist.stage.resolve import ResolvedStage


@app.command(
    epilog="Example:  swamp submit jobs/pretrain/synthetic.yaml train.epochs=50 "
    "--cluster jobs/clusters/slurm.yaml --dry-run"
)
def submit(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="Job file.", show_default=False)],
    cluster: Annotated[Path, typer.Option(help="Cluster file: where and with how much.", show_default=False)],
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Run folder, on a file system that all nodes see. Default: runs/NAME of the job."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check, also for a live job; print plan and batch script, submit nothing."
        ),
    ] = False,
) -> None:
    """Check a stage, submit it to a cluster, and say how to watch it. The same command again continues it.

    The job saves when it is signalled, preempted or out of time, queues again by itself and goes on.
    """
    from swamp_dist.backends.jobs import job_finder, job_lives, look_for_job
    from swamp_dist.backends.protocols import StageRef
    from swamp_dist.backends.registry import open_backend
    from swamp_dist.costs.memory import refuse_what_does_not_fit, room_on
    from swamp_dist.runs.provenance import write_submission
    from swamp_dist.stage.longer import go_on
    from swamp_dist.stage.open import open_run

    settings, where = load_stage(job, overrides or ()), load_cluster(cluster)
    folder, backend = RunDir(run_dir or Path("runs") / settings.name), open_backend(where)
    if not dry_run and not folder.done:
        backend.check()
    unknown: list[str] = []
    find_job = look_for_job(backend, unknown.append) if dry_run else job_finder(backend)
    try:
        stage = open_run(folder, settings, backend.world_size, find_job, job_lives(folder))
    except RunDirHeld as held:
        raise RunDirHeld(f"{held}{_not_applied(folder, where)}") from None
    ref = StageRef(settings.name, folder)
    if stage is None:
        _conclude(backend, ref)
    refuse_what_does_not_fit(settings, backend.world_size, room_on(where))
    warn_of(settings)
    if isinstance(where, SizedCluster):
        _print_plan(stage, where, folder)
    if dry_run:
        say("\n".join([backend.describe(ref), *unknown]))
        return
    for line in go_on(folder, settings, stage):
        say(line)
    write_submission(settings, where, folder, stage.manifest.hash, sys.argv, stage.blend_hashes)
    _conclude(backend, ref)


def _not_applied(folder: RunDir, cluster: ClusterSettings) -> str:
    """What to add for a live run that was submitted with another cluster file; else nothing."""
    try:
        before = load_cluster(folder.cluster_yaml).model_dump() if folder.cluster_yaml.is_file() else {}
    except UserError:
        return ""
    asked = cluster.model_dump()
    other = sorted(k for k in before.keys() & asked.keys() if before[k] != asked[k] and asked[k] is not None)
    said = f"\nOf the cluster file these are not applied to it: {', '.join(other)} ({folder.cluster_yaml})."
    return said if other else ""


def _conclude(backend: Backend, stage: StageRef) -> NoReturn:
    """Submit the stage, or run it to its end where no scheduler keeps jobs, and say what comes next."""
    from swamp_dist.backends.jobs import submit_stage
    from swamp_dist.backends.protocols import JobBackend

    folder = stage.run_dir
    if not isinstance(backend, JobBackend):
        code = backend.run(stage, say)
        say_ending(code, folder)
        raise typer.Exit(code)
    if folder.done:
        say(f"{folder.path} is done already ({folder.result_json} is there): nothing to submit")
        raise typer.Exit(ExitCode.DONE)
    job = submit_stage(backend, stage)
    named = shlex.quote(str(folder.path))
    lines = {"job": job, "run folder": str(folder.path)}
    lines |= {"watch": f"swamp logs {named} --follow", "status": f"swamp status {named}"}
    lines |= backend.commands([job])
    lines["end it"] = f"swamp cancel {named}   (the same submit command continues it)"
    lines["next"] = f"swamp table {named}"
    for label, text in lines.items():
        say(f"{label + ':':<11}  {text}")
    raise typer.Exit(ExitCode.DONE)


def _print_plan(stage: ResolvedStage, cluster: SizedCluster, folder: RunDir) -> None:
    from swamp_dist.costs.estimate import estimate

    for label, text in estimate(stage, cluster, folder):
        say(f"{label + ':':<12} {text}")
