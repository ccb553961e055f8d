"""CPUs, memory and GPUs that a cluster file asks of a node, against the nodes of a partition."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from swamp_dist.backends.protocols import SchedulerError
from swamp_dist.backends.slurm.commands import ask, last_line
from swamp_dist.backends.slurm.queue import on
from swamp_dist.config import SlurmCluster
from swamp_dist.records import Finding

_MOST = 12
_DOWN = re.compile("down|drain|drng|fail|maint|unk|boot|power|\\*", re.IGNORECASE)
"""In a node's state where it takes no job."""
_GPU = re.compile(r"gpu(?::(?P<kind>[A-Za-z][^:,()]*))?:(?P<count>[0-9]+)")


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one kind and state, as sinfo lists them."""

    count: int
    cpus: int
    megabytes: int
    gpus: tuple[tuple[str, int], ...]
    """Kind (empty where the cluster names none) and number of each."""
    state: str


def values(names: Iterable[object]) -> str:
    """Valid values for people: each once, in order, the rest as a number."""
    listed = list(dict.fromkeys(str(name) for name in names))
    more = f" and {len(listed) - _MOST} more" if len(listed) > _MOST else ""
    return ", ".join(listed[:_MOST]) + more


def check_nodes(cluster: SlurmCluster, partition: str) -> Iterator[Finding]:
    """Whether enough nodes of a partition are large enough, and up."""
    try:
        groups = _groups(cluster, partition)
    except SchedulerError as error:
        said = f"sizes of nodes are not known: {error}"
        yield Finding("nodes", "warning", said, "ask on a login node of the cluster")
        return
    short = list(_too_small(cluster, partition, groups))
    yield from short
    if short:
        return
    fit = [g for g in groups if _cpus_fit(cluster, g) and _memory_fits(cluster, g) and _gpus_fit(cluster, g)]
    count, up = sum(g.count for g in fit), sum(g.count for g in fit if not _DOWN.search(g.state))
    said = f"{count} nodes of partition {partition} have what a job asks of one, {up} of them are up"
    if count < cluster.nodes:
        fix = "lower cpus_per_task, memory_gb or gpus_per_node: no such nodes have all of them together"
        yield Finding("nodes", "problem", said, fix)
    elif up < cluster.nodes:
        yield Finding("nodes", "warning", said, f"a job of {cluster.nodes} nodes waits until more are up")
    else:
        yield Finding("nodes", "ok", said)


def _groups(cluster: SlurmCluster, partition: str) -> list[NodeGroup]:
    form = "--format=%D|%c|%m|%G|%T"
    done = ask("sinfo", *on(cluster.cluster), "--noheader", "--exact", f"--partition={partition}", form)
    if done.returncode != 0:
        raise SchedulerError(f"sinfo: {last_line(done.stderr)}")
    rows = [line.strip().split("|") for line in done.stdout.splitlines()]
    found = [
        NodeGroup(int(count), int(cpus.rstrip("+")), int(memory.rstrip("+")), _gpus(gres), state)
        for count, cpus, memory, gres, state in (row for row in rows if len(row) == 5)
        if count.isdecimal() and cpus.rstrip("+").isdecimal() and memory.rstrip("+").isdecimal()
    ]
    if not found:
        raise SchedulerError(f"sinfo lists no node of partition {partition}")
    return found


def _gpus(gres: str) -> tuple[tuple[str, int], ...]:
    return tuple((found["kind"] or "", int(found["count"])) for found in _GPU.finditer(gres))


def _too_small(cluster: SlurmCluster, partition: str, groups: list[NodeGroup]) -> Iterator[Finding]:
    """What too few nodes have, one by one, with the values that they do have."""

    def found(asked: str, have: str, fix: str) -> Finding:
        said = f"{asked} on each of {cluster.nodes} nodes, but nodes of partition {partition} have {have}"
        return Finding("nodes", "problem", said, fix)

    if sum(g.count for g in groups if _cpus_fit(cluster, g)) < cluster.nodes:
        most = _reached(cluster, [(g.cpus, g.count) for g in groups]) // cluster.tasks_per_node
        have = f"{values(sorted({g.cpus for g in groups}))} CPUs"
        asked = f"tasks_per_node x cpus_per_task = {_cpus(cluster)} CPUs"
        fix = f"cpus_per_task: {most} or fewer" if most else "fewer tasks_per_node"
        yield found(asked, have, fix)
    if sum(g.count for g in groups if _memory_fits(cluster, g)) < cluster.nodes:
        most = _reached(cluster, [(g.megabytes, g.count) for g in groups])
        have = f"{values(sorted({round(g.megabytes / 1024) for g in groups}))} GiB"
        asked = f"{_megabytes(cluster) / 1024:.0f} GiB of memory"
        each = int(most / _megabytes(cluster) * (cluster.memory_gb or 0.0))
        yield found(asked, have, f"memory_gb: {each} or less, or null with memory_per: node for all of it")
    if sum(g.count for g in groups if _gpus_fit(cluster, g)) < cluster.nodes:
        kinds = [f"{number} {kind or 'GPUs'}" for g in groups for kind, number in g.gpus]
        asked = f"{cluster.gpus_per_node} {cluster.gpu_type or 'GPUs'}"
        fix = "gpus_per_node, tasks_per_node and gpu_type as listed, or another partition"
        yield found(asked, values(kinds) or "no GPU", fix)


def _reached(cluster: SlurmCluster, sizes: Iterable[tuple[int, int]]) -> int:
    """The largest size that enough nodes have; 0 where there are too few nodes."""
    seen = 0
    for size, count in sorted(sizes, reverse=True):
        seen += count
        if seen >= cluster.nodes:
            return size
    return 0


def _cpus(cluster: SlurmCluster) -> int:
    return cluster.cpus_per_task * cluster.tasks_per_node


def _megabytes(cluster: SlurmCluster) -> float:
    """Of a node; 0 where any will do."""
    times = {"node": 1, "cpu": _cpus(cluster), "gpu": cluster.gpus_per_node, "none": 0}[cluster.memory_per]
    return (cluster.memory_gb or 0.0) * 1024 * times


def _cpus_fit(cluster: SlurmCluster, group: NodeGroup) -> bool:
    return group.cpus >= _cpus(cluster)


def _memory_fits(cluster: SlurmCluster, group: NodeGroup) -> bool:
    return group.megabytes >= _megabytes(cluster)


def _gpus_fit(cluster: SlurmCluster, group: NodeGroup) -> bool:
    wanted = cluster.gpu_type
    has = sum(number for kind, number in group.gpus if wanted is None or kind == wanted)
    return has >= cluster.gpus_per_node
