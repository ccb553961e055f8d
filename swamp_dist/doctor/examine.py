"""All checks together: of this host, or of every host of an allocation."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace

from swamp_dist.doctor import cluster, machine, network, ranks, software, stage
from swamp_dist.doctor.finding import Check, Subject, run_checks
from swamp_dist.environment import read_environment
from swamp_dist.records import Finding

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
    "port": (machine.port, 15.0),
    "network": (network.reach, 15.0),
    "job": (stage.job, 20.0),
    "shards": (stage.shards, 20.0),
    "disk": (stage.disk, 25.0),
}
"""Checks of a machine with the seconds each may take."""
CLUSTER: Mapping[str, tuple[Check, float]] = {
    "grace": (cluster.grace, 12.0),
    "requeue": (cluster.requeue, 12.0),
    "site": (cluster.site, 24.0),
}
"""Questions to the scheduler."""
_TWO: Mapping[str, tuple[Check, float]] = {"all-reduce": (ranks.two_here, ranks.SECONDS + 2.0)}


def examine(subject: Subject) -> list[Finding] | None:
    """All findings; inside an allocation (`srun swamp doctor`) those of all ranks, None on ranks but 0.

    There a finding that all hosts share stands once, others with their host.

    Raises:
        UserError: the environment describes half a world.
    """
    place = read_environment()
    if place.world_size == 1:
        return _placed(run_checks({**HERE, **_TWO, **CLUSTER}, subject), subject)
    from swamp_dist.distributed import gather_objects, join, leave

    found = run_checks({**HERE, **CLUSTER}, subject)
    world = join(_JOIN_SECONDS)
    try:
        measured = list(ranks.judge(ranks.measure(world)))
        everywhere = gather_objects((socket.gethostname(), found), world)
    finally:
        leave()
    return [*merge_findings(everywhere), *measured] if place.rank == 0 else None


def _placed(found: Sequence[Finding], subject: Subject) -> list[Finding]:
    """Say of each whether it is of this machine or of the scheduler, where ranks run on other machines."""
    if cluster.site_backend(subject) is None:
        return list(found)
    here = {*HERE, *_TWO, "clocks"}
    return [replace(f, place="here" if f.check in here else "scheduler") for f in found]


def merge_findings(everywhere: list[tuple[str, list[Finding]]]) -> list[Finding]:
    """Findings of all hosts: those that every rank has once and without host, the rest once per host."""
    common = [f for f in everywhere[0][1] if all(f in found for _, found in everywhere)]
    own = [replace(f, host=host) for host, found in everywhere for f in found if f not in common]
    return [*common, *dict.fromkeys(own)]
