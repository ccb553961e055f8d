"""Which rank this process is, read from the variables that launchers set; the only place that reads them.

`swamp run`, torchrun and Ray Train set RANK and its companions; srun sets SLURM_PROCID and its own. A
process with neither is alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from swamp_dist.errors import UserError

_TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_STEP = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST")
"""What srun gives each task. A batch script has SLURM_PROCID too, but is no task: it lacks
SLURM_STEP_NUM_TASKS."""
_START = "SWAMP_START"
"""The start that a rank belongs to, as our own launchers name it."""
BATCH_MARK = "SWAMP_BATCH_JOB"
"""Variable that a batch script sets to its job's id after all the others: what the ranks have to see too."""
_FIRST_PORT, _PORTS = 20000, 12000
"""Below 32768, from where Linux takes the ports of outgoing connections."""
_RESTARTS, _STEPS = 7919, 104729
"""Primes that share no factor with the number of ports: jobs, restarts and steps that run side by side or one
after another, and so have close numbers, get ports far apart."""


@dataclass(frozen=True)
class RankInfo:
    """This process among its peers, and where they meet."""

    rank: int
    world_size: int
    local_rank: int
    """Place among the ranks of its node."""
    address: str
    port: int
    launcher: str
    """`torch` (swamp run, torchrun, Ray), `slurm` (srun) or `none` (one process)."""
    start: str = ""
    """Tells this start of the ranks from any other that comes to the same port; empty where the launcher does
    not say."""
    other_host: str = ""
    """A host other than rank 0's, where the launcher names one."""

    def variables(self) -> dict[str, str]:
        """The place in torch's names, which torch.distributed and DeepSpeed read, and the start."""
        values = (self.rank, self.world_size, self.local_rank, self.address, self.port)
        return dict(zip(_TORCH, map(str, values), strict=True)) | {_START: self.start}


def read_environment(environment: Mapping[str, str] = os.environ) -> RankInfo:
    """The place that the environment describes; alone where it describes none.

    Ranks that were started inside an srun task (by torchrun or `swamp run`) are those of their own launcher.

    Raises:
        UserError: only some of the variables are set, or they are no numbers that fit.
    """
    if environment.get("RANK") or environment.get("WORLD_SIZE"):
        return _torch_rank(environment)
    if environment.get("SLURM_STEP_NUM_TASKS"):
        return _slurm_rank(environment)
    return RankInfo(0, 1, 0, "127.0.0.1", 0, "none")


def _torch_rank(environment: Mapping[str, str]) -> RankInfo:
    fix = (
        "Start ranks with `swamp run JOB --ranks N` or torchrun, "
        "or unset RANK and WORLD_SIZE for one process."
    )
    found = _all(environment, _TORCH, fix)
    rank, size, local_rank, port = (
        _number(found, name, fix) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    )
    start = environment.get(_START, "")
    info = RankInfo(rank, size, local_rank, found["MASTER_ADDR"], port, "torch", start)
    return _checked(info, "RANK", fix)


def _slurm_rank(environment: Mapping[str, str]) -> RankInfo:
    """Address: first node of the step, or the loopback address where it is the only one. Port: made from job
    and restart, the same on all ranks and another for a job that starts again. MASTER_ADDR and MASTER_PORT
    have the last word where they are set."""
    fix = (
        "Start ranks with `swamp submit JOB --cluster FILE` or srun, "
        "or unset SLURM_STEP_NUM_TASKS for one process."
    )
    found = _all(environment, _STEP, fix)
    rank, size, local_rank, job = (
        _number(found, name, fix)
        for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_JOB_ID")
    )
    restart = job_restarts(environment)
    step = int(environment.get("SLURM_STEP_ID") or 0)
    nodes = found["SLURM_STEP_NODELIST"]
    other = last_host(nodes) if last_host(nodes) != first_host(nodes) else ""
    address = environment.get("MASTER_ADDR") or (first_host(nodes) if other else "127.0.0.1")
    port = environment.get("MASTER_PORT") or str(
        _FIRST_PORT + (job + _RESTARTS * restart + _STEPS * step) % _PORTS
    )
    number = _number({"MASTER_PORT": port}, "MASTER_PORT", fix)
    start = f"{job}.{restart}.{step}"
    info = RankInfo(rank, size, local_rank, address, number, "slurm", start, other)
    return _checked(info, "SLURM_PROCID", fix)


def job_id(environment: Mapping[str, str] = os.environ) -> str:
    """The scheduler's id of the job that this process belongs to; empty outside a job."""
    return environment.get("SLURM_JOB_ID", "")


def job_restarts(environment: Mapping[str, str] = os.environ) -> int:
    """How often the scheduler has started this process's job again."""
    return int(environment.get("SLURM_RESTART_COUNT") or 0)


def job_nodes(environment: Mapping[str, str] = os.environ) -> str:
    """Nodes of this process's job, in the scheduler's short form; empty outside a job."""
    return environment.get("SLURM_JOB_NODELIST", "")


def node_name(environment: Mapping[str, str] = os.environ) -> str:
    """This machine as the scheduler calls it; its host name outside a job."""
    return environment.get("SLURMD_NODENAME") or socket.gethostname()


def step_nodes(environment: Mapping[str, str] = os.environ) -> str:
    """Nodes of the tasks that were started together with this one, in the scheduler's short form."""
    return environment.get("SLURM_STEP_NODELIST", "")


def check_batch_mark(environment: Mapping[str, str] = os.environ) -> None:
    """Ask whether a task of srun has the variables that its batch script has set.

    Raises:
        UserError: it has not: then modules, variables of the cluster file and keys are missing too.
    """
    started_by_srun = environment.get("SLURM_STEP_NUM_TASKS") and not environment.get("RANK")
    if started_by_srun and environment.get(BATCH_MARK) != job_id(environment):
        raise UserError(
            f"what the batch script sets does not reach the ranks ({BATCH_MARK} is missing on "
            f"{environment.get('SLURMD_NODENAME', 'this node')}): `environment` and `setup` of the cluster "
            "file would be lost.\nFix: no --export and no SLURM_EXPORT_ENV in `setup`, and an srun that "
            "exports all (--export=ALL)."
        )


def first_host(node_list: str) -> str:
    """The first host of SLURM's short form: `gpu[007-012,020]-ib,login1` -> `gpu007-ib`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", node_list)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first.group() if first else "")


def last_host(node_list: str) -> str:
    """The last host of SLURM's short form: `gpu[007-012,020]-ib,login[1-2]` -> `login2`."""
    last = re.search(r"(?:[^,\[]|\[[^\]]*\])*$", node_list)
    return re.sub(r"\[[^\]]*?([^\],-]*)\]", r"\1", last.group() if last else "")


def launcher_keeps_store(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the launcher, torchrun, has opened the store at MASTER_ADDR and MASTER_PORT itself."""
    return environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _all(environment: Mapping[str, str], names: Sequence[str], fix: str) -> dict[str, str]:
    found = {name: environment[name] for name in names if environment.get(name)}
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(
            f"the distributed environment is half set: {', '.join(sorted(found))} present, "
            f"{', '.join(missing)} missing.\n{fix}"
        )
    return found


def _number(found: Mapping[str, str], name: str, fix: str) -> int:
    if not found[name].isdecimal():
        raise UserError(
            f"the distributed environment has {name}={found[name]!r}: expected a whole number.\n{fix}"
        )
    return int(found[name])


def _checked(info: RankInfo, name: str, fix: str) -> RankInfo:
    if info.rank >= info.world_size:
        raise UserError(
            f"the distributed environment has {name}={info.rank} of {info.world_size} ranks: "
            f"ranks count from 0.\n{fix}"
        )
    return info


@contextlib.contextmanager
def replaced_variables(wanted: Mapping[str, str]) -> Iterator[None]:
    """This process's environment replaced inside the block, for the commands that it starts there."""
    own = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(wanted)
        yield
    finally:
        os.environ.clear()
        os.environ.update(own)
