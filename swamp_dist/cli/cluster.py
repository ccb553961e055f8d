"""Verb of jobs on a cluster: submit."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swamp_dist.cli.app import Overrides, app
from swamp_dist.cli.printing import say
from swamp_dist.cli.stages import run_here, say_ending
from swamp_dist.config import LocalCluster, RayCluster, SlurmCluster, StageSettings
from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.rundir import RunDir
from swamp_dist.loading import load, load_cluster

if TYPE_CHECKING:
    from swamp_dist.data.manifest import Manifest


@app.command(
    epilog="Example:  swamp submit jobs/pretrain/synthetic.yaml train.epochs=50 --cluster jobs/clusters/slurm.yaml --dry-run"
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
        bool, typer.Option("--dry-run", help="Check, print plan and batch script, submit nothing.")
    ] = False,
) -> None:
    """Check a stage, submit it to a cluster, and say how to watch it. The same command again continues it.

    The job saves when it is signalled, preempted or out of time, queues again by itself and goes on.
    """
    from swamp_dist.launch.finished import check_finished

    settings, where = load(job, StageSettings, overrides or ()), load_cluster(cluster)
    folder = RunDir(run_dir or Path("runs") / settings.name)
    check_finished(folder, settings)
    if isinstance(where, LocalCluster):
        _submit_here(settings, where, folder, dry_run)
    elif isinstance(where, RayCluster):
        _submit_to_ray(settings, where, folder, dry_run)
    elif folder.done:
        say(f"{folder.path} is done already ({folder.result_json} is there): nothing to submit")
    else:
        _submit_to_slurm(settings, where, folder, dry_run)


def _submit_here(settings: StageSettings, cluster: LocalCluster, folder: RunDir, dry_run: bool) -> None:
    if not dry_run:
        raise typer.Exit(run_here(settings, folder, cluster.ranks))
    from swamp_dist.launch.preflight import check_stage

    check_stage(settings, folder, cluster.ranks)
    say(f"would run {cluster.ranks} ranks on this machine in {folder.path}")


def _submit_to_ray(settings: StageSettings, cluster: RayCluster, folder: RunDir, dry_run: bool) -> None:
    """Run a stage on a Ray and wait for it, as `swamp run` does with its own ranks."""
    if not folder.done:
        from swamp_dist.launch.preflight import check_stage
        from swamp_dist.launch.submission import refuse_if_submitted, write_submission

        if not dry_run:
            refuse_if_submitted(folder)
        folder.refuse_if_held()
        manifest = check_stage(settings, folder, cluster.world_size)
        _print_plan(settings, cluster, folder, manifest)
        if dry_run:
            say(f"Ray:         {_which_ray(cluster)}\nnothing was started (--dry-run)")
            return
        write_submission(settings, cluster, folder, manifest.hash, sys.argv)
    from swamp_dist.launch.ray_cluster import run_on_ray

    code = run_on_ray(folder.stage_yaml, folder.path, cluster, report=say)
    say_ending(code, folder)
    raise typer.Exit(code)


def _which_ray(cluster: RayCluster) -> str:
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    return f"the one at {address}" if address else "one of our own on this machine, for the time of the stage"


def _submit_to_slurm(settings: StageSettings, cluster: SlurmCluster, folder: RunDir, dry_run: bool) -> None:
    from swamp_dist.launch import cluster as slurm
    from swamp_dist.launch.preflight import check_stage
    from swamp_dist.launch.submission import refuse_live_job, write_submission

    if not dry_run:
        slurm.refuse_without_slurm()
        refuse_live_job(folder, "submitted")
    folder.refuse_if_held()
    manifest = check_stage(settings, folder, cluster.world_size)
    _print_plan(settings, cluster, folder, manifest)
    if dry_run:
        say("\n" + slurm.batch_script(settings.name, cluster, folder))
        say("nothing was submitted (--dry-run)")
        return
    write_submission(settings, cluster, folder, manifest.hash, sys.argv)
    _say_next(slurm.submit(settings.name, cluster, folder), folder)


def _print_plan(
    settings: StageSettings, cluster: RayCluster | SlurmCluster, folder: RunDir, manifest: Manifest
) -> None:
    from swamp_dist.launch.cluster import plan_stage
    from swamp_dist.launch.estimate import estimate

    plan = plan_stage(settings, manifest, cluster.world_size)
    for label, text in estimate(settings, cluster, plan, folder):
        say(f"{label + ':':<12} {text}")


def _say_next(job: str, folder: RunDir) -> None:
    say(f"job:         {job}")
    say(f"run folder:  {folder.path}")
    say(f"watch:       tail -F {folder.slurm_log(job)}")
    say(f"state:       squeue -j {job}")
    say(f"save, requeue and go on:  scancel --signal=USR2 {job}")
    say(f"end it:      swamp cancel {folder.path}   (the same submit command continues it)")
    say(f"next:        swamp table {folder.path}")
    raise typer.Exit(ExitCode.DONE)
