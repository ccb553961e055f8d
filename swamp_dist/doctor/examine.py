"""All checks together: of this host, or of every host of an allocation."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace

from swamp_dist.environment import read_environment
from swamp_dist.launch.doctor import cluster, machine, ranks, software, stage
from swamp_dist.launch.doctor.finding import Check, Finding, Subject, run_checks

_JOIN_SECONDS = 15.0
HERE: Mapping[str, tuple[Check, float]] = {
    "versions": (software.versions, 10.0),
    "extensions": (software.extensions, 10.0),
    "environment": (software.environment, 5.0),
    "memory": (machine.memory, 5.0),
    "shared memory": (machine.shared_memory, 5.0),
    "open files": (machine.open_files, 5.0),
    "threads": (machine.threads, 5.0),
    "host name": (machine.name, 10.0),
    "port": (machine.port, 5.0),
    "job": (stage.job, 20.0),
    "shards": (stage.shards, 20.0),
    "disk": (stage.disk, 25.0),
    "grace": (cluster.grace, 12.0),
    "requeue": (cluster.requeue, 12.0),
}
"""Checks with the seconds each may take."""
_TWO: Mapping[str, tuple[Check, float]] = {"all-reduce": (ranks.two_here, ranks.SECONDS + 2.0)}


def examine(subject: Subject) -> list[Finding] | None:
    """All findings; inside an allocation (`srun swamp doctor`) those of all ranks, None on ranks but 0.

    There a finding that all hosts share stands once, others with their host.

    Raises:
        UserError: the environment describes half a world.
    """
    place = read_environment()
    if place.world_size == 1:
        return run_checks({**HERE, **_TWO}, subject)
    from swamp_dist.distributed import gather_objects, join, leave

    found = run_checks(HERE, subject)
    world = join(_JOIN_SECONDS)
    try:
        measured = list(ranks.judge(ranks.measure(world)))
        everywhere = gather_objects((socket.gethostname(), found), world)
    finally:
        leave()
    return [*merged(everywhere), *measured] if place.rank == 0 else None


def merged(everywhere: list[tuple[str, list[Finding]]]) -> list[Finding]:
    """Findings of all hosts: those that every rank has once and without host, the rest once a host."""
    common = [f for f in everywhere[0][1] if all(f in found for _, found in everywhere)]
    own = [replace(f, host=host) for host, found in everywhere for f in found if f not in common]
    return [*common, *dict.fromkeys(own)]
