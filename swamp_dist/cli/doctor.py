"""Verb that looks for trouble before it costs a run: doctor."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swamp_dist.cli.app import app
from swamp_dist.cli.printing import say
from swamp_dist.errors import ExitCode, UserError
from swamp_dist.loading import load_cluster

if TYPE_CHECKING:
    from swamp_dist.records import Finding, Place

_TITLES: Mapping[Place, str] = {
    "": "",
    "here": "this machine ({host}), which submits; ranks run on the compute nodes:",
    "scheduler": "the cluster file, by what the scheduler says:",
    "nodes": "compute nodes, in a short allocation:",
}


@app.command(
    epilog="Examples:  swamp doctor  |  swamp doctor --job jobs/pretrain/synthetic.yaml --ranks 2  |  "
    "swamp doctor --cluster jobs/clusters/slurm.yaml --allocate"
)
def doctor(
    job: Annotated[Path | None, typer.Option(help="Also check this job: settings, shards, disk.")] = None,
    cluster: Annotated[
        Path | None,
        typer.Option(help="Also check this cluster file: its partition, limits, account, grace times."),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Run to take checkpoint size and times of a step and a save from.")
    ] = None,
    ranks: Annotated[int, typer.Option(help="Ranks of this machine.", min=1)] = 2,
    allocate: Annotated[
        bool,
        typer.Option(
            "--allocate",
            help="With --cluster: also check its compute nodes, one task on each for at most 2 minutes.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print for programs to read.")] = False,
) -> None:
    """Check this machine, or with srun every host of an allocation, in less than 30 seconds.

    With --cluster also whether the scheduler would take its jobs, and with --allocate its compute nodes.

    Each finding is ok, a warning or a problem with its fix. Exit code 1 where there is a problem, else 0.
    """
    from swamp_dist.doctor.cluster import site_backend
    from swamp_dist.doctor.examine import examine
    from swamp_dist.doctor.finding import Subject
    from swamp_dist.doctor.nodes import look_on_nodes, refused
    from swamp_dist.runs.folder import RunDir
    from swamp_dist.runs.stage_file import load_stage

    subject = Subject(
        load_stage(job) if job is not None else None,
        RunDir(run_dir) if run_dir is not None else None,
        load_cluster(cluster) if cluster is not None else None,
        ranks,
    )
    backend = site_backend(subject)
    if allocate and backend is None:
        raise UserError("--allocate needs --cluster FILE of a scheduler, whose nodes it looks at")
    found = examine(subject)
    if found is None:  # rank 0 speaks for all
        return
    if allocate and backend is not None:
        unasked = refused(backend, found)
        if not unasked:
            say(f"asking {backend.title} for {backend.nodes} nodes; that may take minutes", error=True)
        found += unasked or look_on_nodes(backend, subject, job)
    problems = sum(f.level == "problem" for f in found)
    if as_json:
        say(json.dumps([asdict(finding) for finding in found], indent=1))
    else:
        _say_findings(found)
        warnings = sum(f.level == "warning" for f in found)
        say(f"{problems} problems, {warnings} warnings, {len(found) - problems - warnings} ok")
    raise typer.Exit(ExitCode.FAILED if problems else ExitCode.DONE)


def _say_findings(found: Sequence[Finding]) -> None:
    """Findings by the place that they are true of, where there is more than this machine."""
    by_place = any(f.place for f in found)
    for place, title in _TITLES.items():
        own = [f for f in found if f.place == place]
        if by_place and own:
            say(title.format(host=socket.gethostname()))
        for f in own:
            where = f"{f.host}: " if f.host else ""
            say(f"{f.level:8} {f.check:14} {where}{f.message}")
            if f.fix:
                say(f"{'':8} {'':14} fix: {f.fix}")
    if by_place and not any(f.place == "nodes" for f in found):
        say("compute nodes: not looked at; --allocate runs the checks there, for at most 2 minutes")
