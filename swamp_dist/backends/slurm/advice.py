"""Which setting of a cluster file to change when SLURM refuses a job or lets it wait for ever."""

from __future__ import annotations

import contextlib
import re

from swamp_dist.backends.protocols import SchedulerError
from swamp_dist.backends.slurm.commands import ask

_MOST = 12
"""Values of a setting that are listed."""
_ALL = "nodes, tasks_per_node, cpus_per_task, memory_gb, gpu_type and constraint"
_REFUSALS: tuple[tuple[str, str, str], ...] = (
    ("invalid partition|partition.*not available|partition.*down", "partition", "%R"),
    ("invalid account|account/partition", "account, and partition, which not every account may use", ""),
    ("invalid qos|qos.*not permitted", "qos", ""),
    ("invalid feature", "constraint", "%f"),
    ("generic resource|invalid gres|trackable resource", "gpus_per_node, gpu_type and gpus_by", "%G"),
    ("time limit", "time_limit (minutes)", "%R: %l"),
    ("memory", "memory_gb and memory_per", "%R: %m MB"),
    ("node name", "exclude, and nodelist in sbatch", "%N"),
    ("reservation", "reservation", ""),
    ("license", "licenses", ""),
    ("cpu count|more processors", "cpus_per_task and tasks_per_node", "%R: %c CPUs"),
    ("node count|node configuration", _ALL, "%R: %D nodes of %c CPUs, %m MB, %G, %f"),
    ("accounting|policy|limit", "time_limit, nodes or qos", ""),
    ("job array", "max_jobs, and --parts of the command", ""),
    ("cluster", "cluster", ""),
)
"""What sbatch says, the settings that say it, and what sinfo prints of valid values."""
_NEVER: tuple[tuple[str, str], ...] = (
    ("TimeLimit|MaxWall", "lower time_limit, or name another partition or qos"),
    ("PartitionNodeLimit|MaxNode", "change nodes, or name another partition or qos"),
    ("MaxCpu|MinCpu", "change nodes, tasks_per_node or cpus_per_task, or name another qos"),
    ("MaxMem|MinMem", "lower memory_gb, or name another qos"),
    ("MaxGRES|MinGRES", "change gpus_per_node or nodes, or name another qos"),
    ("BadConstraints|PartitionConfig", f"change {_ALL}"),
    ("Account", "name another account"),
    ("QOS", "name another qos"),
    ("Reservation", "name another reservation"),
)
"""Reasons for which a job waits, and what to change."""
_FOR_EVER = re.compile(
    "PartitionTimeLimit|PartitionNodeLimit|PartitionConfig|BadConstraints|AccountNotAllowed|QOSNotAllowed|InvalidAccount|"
    "InvalidQOS|ReservationDeleted|(Assoc|QOS)Max[A-Za-z]*Per(Job|Node)Limit|QOSMin[A-Za-z]+"
)
"""Reasons that no passing of time mends, in words of squeue."""
_FAILED_BEFORE, _HELD = "DependencyNeverSatisfied", "requeued held"


def advice(said: str) -> str:
    """What to change in the cluster file, and to which values; empty where sbatch's words tell no setting."""
    for pattern, settings, shown in _REFUSALS:
        if re.search(pattern, said, re.IGNORECASE):
            values = _values(shown) if shown else ""
            fix = f"Fix: change {settings} in the cluster file."
            return f"{fix} This cluster has: {values}" if values else fix
    return ""


def never_starts(reason: str) -> str:
    """What lets a job start that waits for this reason; empty where waiting is enough."""
    if reason == _FAILED_BEFORE:
        return "a job before it has failed; the command that submitted it submits both again"
    if _HELD in reason:
        return "its node could not start it; `scontrol release JOB` lets it try again"
    if not _FOR_EVER.fullmatch(reason):
        return ""
    change = next((fix for pattern, fix in _NEVER if re.search(pattern, reason)), "change what it asks for")
    return f"{change} in the cluster file, then `swamp cancel` the run and submit it again"


def _values(shown: str) -> str:
    """Valid values, as sinfo prints them; empty where it does not answer."""
    with contextlib.suppress(SchedulerError):
        listed = ask("sinfo", "--noheader", f"--format={shown}")
        lines = list(dict.fromkeys(line.strip() for line in listed.stdout.splitlines()))
        found = [line for line in lines if line and line != "(null)"]
        more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
        return "; ".join(found[:_MOST]) + more if listed.returncode == 0 else ""
    return ""
