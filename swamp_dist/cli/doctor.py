"""Verb that looks for trouble before it costs a run: doctor."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from swamp_dist.cli.app import app
from swamp_dist.cli.printing import say
from swamp_dist.config import StageSettings
from swamp_dist.launch.local import ExitCode
from swamp_dist.loading import load, load_cluster


@app.command(
    epilog="Examples:  swamp doctor  |  swamp doctor --job jobs/pretrain/synthetic.yaml --ranks 2  |  "
    "srun swamp doctor --cluster jobs/clusters/slurm.yaml"
)
def doctor(
    job: Annotated[Path | None, typer.Option(help="Also check this job: settings, shards, disk.")] = None,
    cluster: Annotated[Path | None, typer.Option(help="Also check this cluster's grace times.")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Run to take checkpoint size and times of a step and a save from.")
    ] = None,
    ranks: Annotated[int, typer.Option(help="Ranks of this machine.", min=1)] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print for programs to read.")] = False,
) -> None:
    """Check this machine, or with srun every host of an allocation, in less than 30 seconds.

    Each finding is ok, a warning or a problem with its fix. Exit code 1 where there is a problem, else 0.
    """
    from swamp_dist.launch.doctor.examine import examine
    from swamp_dist.launch.doctor.finding import Subject
    from swamp_dist.launch.rundir import RunDir

    subject = Subject(
        load(job, StageSettings, ()) if job is not None else None,
        RunDir(run_dir) if run_dir is not None else None,
        load_cluster(cluster) if cluster is not None else None,
        ranks,
    )
    found = examine(subject)
    if found is None:  # rank 0 speaks for all
        return
    problems = sum(f.level == "problem" for f in found)
    if as_json:
        say(json.dumps([asdict(finding) for finding in found], indent=1))
    else:
        for f in found:
            where = f"{f.host}: " if f.host else ""
            say(f"{f.level:8} {f.check:14} {where}{f.message}")
            if f.fix:
                say(f"{'':8} {'':14} fix: {f.fix}")
        warnings = sum(f.level == "warning" for f in found)
        say(f"{problems} problems, {warnings} warnings, {len(found) - problems - warnings} ok")
    raise typer.Exit(ExitCode.FAILED if problems else ExitCode.DONE)
