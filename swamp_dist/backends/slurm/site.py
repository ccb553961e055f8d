"""Whether SLURM would take a job of a cluster file, by what its own commands say; they only read."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from swamp_dist.backends.protocols import SchedulerError
from swamp_dist.backends.slurm.commands import ask, last_line
from swamp_dist.backends.slurm.node_sizes import check_nodes, values
from swamp_dist.backends.slurm.queue import on
from swamp_dist.config import SlurmCluster
from swamp_dist.records import Finding

_LOGIN = "ask on a login node of the cluster (some need `module load slurm`)"

_NO_ACCOUNTING = "accounting_storage"
"""In what sacctmgr says where the cluster keeps no accounts, which is no trouble."""


@dataclass(frozen=True)
class Partition:
    """What `scontrol show partition` says of one."""

    name: str
    said: dict[str, str]

    @property
    def is_up(self) -> bool:
        """Whether it starts jobs."""
        return self.said.get("State", "UP") == "UP"

    def number(self, key: str) -> int | None:
        """A limit; None where there is none."""
        text = self.said.get(key, "")
        return int(text) if text.isdecimal() else None

    def lets(self, allow: str, deny: str, name: str) -> bool:
        """Whether an account or QOS may use it."""
        allowed = self.said.get(allow, "ALL")
        return (allowed == "ALL" or name in allowed.split(",")) and name not in self.said.get(deny, "").split(
            ","
        )


def check_site(cluster: SlurmCluster) -> Iterator[Finding]:
    """Partition, limits, sizes of nodes, account and QOS of a cluster file against SLURM's words."""
    try:
        known = _partitions(cluster)
    except SchedulerError as error:
        said = f"partition, limits and sizes of nodes are not known: {error}"
        yield Finding("partition", "warning", said, _LOGIN)
    else:
        chosen: list[Partition] = []
        yield from _chosen(cluster, known, chosen)
        for partition in chosen:
            yield from _check_limits(cluster, partition)
            yield from check_nodes(cluster, partition.name)
    yield from _check_account(cluster)


def minutes(text: str) -> float | None:
    """SLURM's time as minutes: `D-HH:MM:SS`, `HH:MM:SS`, `MM:SS` or `MM`; None where it is no time."""
    days, dash, rest = text.partition("-") if "-" in text else ("0", "", text)
    parts = rest.split(":")
    if not all(part.isdecimal() for part in (days, *parts)) or len(parts) > 3:
        return None
    told = [int(part) for part in parts]
    if dash:  # days: hours stand first
        hours, least, seconds = (*told, 0, 0)[:3]
    elif len(told) == 1:
        hours, least, seconds = 0, told[0], 0
    else:
        hours, least, seconds = (0, *told)[-3:]
    return int(days) * 1440 + hours * 60 + least + seconds / 60


def _partitions(cluster: SlurmCluster) -> dict[str, Partition]:
    done = ask("scontrol", *on(cluster.cluster), "--oneliner", "show", "partition")
    if done.returncode != 0:
        raise SchedulerError(f"scontrol show partition: {last_line(done.stderr)}")
    found: dict[str, Partition] = {}
    for line in done.stdout.splitlines():
        pairs = (word.partition("=") for word in line.split() if "=" in word)
        said = {key: value for key, _, value in pairs}
        if "PartitionName" in said:
            found[said["PartitionName"]] = Partition(said["PartitionName"], said)
    if not found:
        raise SchedulerError("scontrol show partition lists none")
    return found


def _chosen(cluster: SlurmCluster, known: dict[str, Partition], chosen: list[Partition]) -> Iterator[Finding]:
    """Whether the partitions of a job are there and up; those go to `chosen`."""
    up = values(name for name, each in known.items() if each.is_up)
    asked = cluster.partition or os.environ.get("SBATCH_PARTITION")
    names = asked.split(",") if asked else [n for n, p in known.items() if p.said.get("Default") == "YES"]
    if not names:
        yield Finding(
            "partition", "problem", "partition is null, and the cluster has no default", _one_of(up)
        )
    for name in names:
        if name not in known:
            yield Finding("partition", "problem", f"this cluster has no partition {name}", _one_of(up))
        elif not known[name].is_up:
            state = known[name].said.get("State", "")
            said = f"partition {name} is {state}: a job would wait or be refused"
            yield Finding("partition", "problem", said, _one_of(up))
        else:
            chosen.append(known[name])
            default = "" if asked else ", the cluster's default,"
            yield Finding("partition", "ok", f"partition {name}{default} is up")


def _one_of(listed: str, setting: str = "partition") -> str:
    return f"{setting} in the cluster file: one of {listed}" if listed else "ask who runs the cluster"


def _check_limits(cluster: SlurmCluster, partition: Partition) -> Iterator[Finding]:
    name, good = partition.name, True
    longest = minutes(partition.said.get("MaxTime", ""))
    if longest is not None and cluster.time_limit > longest:
        good = False
        said = f"time_limit = {cluster.time_limit} minutes, but partition {name} ends jobs at {longest:.0f}"
        yield Finding("limits", "problem", said, f"time_limit: {longest:.0f} or less, or another partition")
    least, most = partition.number("MinNodes") or 0, _least(partition, "MaxNodes", "TotalNodes")
    if most is not None and cluster.nodes > most:
        good = False
        said = f"nodes = {cluster.nodes}, but a job in partition {name} gets at most {most}"
        yield Finding("limits", "problem", said, f"nodes: {most} or fewer, or another partition")
    if cluster.nodes < least:
        good = False
        said = f"nodes = {cluster.nodes}, but a job in partition {name} takes at least {least}"
        yield Finding("limits", "problem", said, f"nodes: {least} or more, or another partition")
    for setting, allow, deny in (
        ("account", "AllowAccounts", "DenyAccounts"),
        ("qos", "AllowQos", "DenyQos"),
    ):
        value = getattr(cluster, setting)
        if value is not None and not partition.lets(allow, deny, value):
            good = False
            fix = f"another partition, or {_one_of(partition.said.get(allow, ''), setting)}"
            yield Finding("limits", "problem", f"partition {name} is closed to {setting} {value}", fix)
    if good:
        longest_said = "no time limit" if longest is None else f"{longest:.0f} minutes"
        nodes = "any number of nodes" if most is None else f"{most} nodes"
        yield Finding("limits", "ok", f"partition {name}: at most {longest_said}, {nodes} a job")


def _least(partition: Partition, *keys: str) -> int | None:
    return min((n for key in keys if (n := partition.number(key)) is not None), default=None)


def _check_account(cluster: SlurmCluster) -> Iterator[Finding]:
    """Account and QOS against what the user may charge, where the cluster keeps accounts."""
    try:
        listed = _associations(cluster)
    except SchedulerError as error:
        yield Finding("account", "warning", f"account and qos are not known: {error}", _LOGIN)
        return
    if not listed:
        yield Finding(
            "account", "ok", "the cluster lists no accounts for you: account and qos are not checked"
        )
        return
    account = cluster.account
    own = [row for row in listed if account in (None, row[0])]
    if not own:
        fix = _one_of(values(row[0] for row in listed), "account")
        yield Finding("account", "problem", f"you may not charge account {account}", fix)
        return
    yield Finding("account", "ok", f"account {account} is yours" if account else "your default account")
    qualities = [name for row in own for name in row[1].split(",") if name]
    if cluster.qos is not None and cluster.qos not in qualities:
        whose = f"account {account}" if account else "your accounts"
        fix = f"{_one_of(values(qualities), 'qos')}, or null for the default"
        yield Finding("qos", "problem", f"{whose} may not use qos {cluster.qos}", fix)
    else:
        yield Finding("qos", "ok", f"qos {cluster.qos}" if cluster.qos else "your default qos")


def _associations(cluster: SlurmCluster) -> list[tuple[str, str]]:
    """Account and QOS list of each association of this user."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        raise SchedulerError(f"user {os.getuid()} has no name here") from None
    where = [f"user={user}", *([f"cluster={cluster.cluster}"] if cluster.cluster else [])]
    show = ("--noheader", "--parsable2", "--readonly", "show", "associations")
    done = ask("sacctmgr", *show, "where", *where, "format=Account,QOS")
    if done.returncode != 0 and _NO_ACCOUNTING in done.stderr:
        return []
    if done.returncode != 0:
        raise SchedulerError(f"sacctmgr: {last_line(done.stderr)}")
    rows: Iterable[tuple[str, str, str]] = (line.partition("|") for line in done.stdout.splitlines())
    return [(name.strip(), more.strip()) for name, _, more in rows if name.strip()]
