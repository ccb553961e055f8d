"""Which rank this process is, read from the variables that launchers set; the only place that reads them.

`swamp run`, torchrun and Ray Train set RANK and its companions; srun sets SLURM_PROCID and its own. A
process with neither is alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swamp_dist.records import UserError

_TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_STEP = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST")
"""What srun gives each task. A batch script has SLURM_PROCID too, but is no task: it lacks
SLURM_STEP_NUM_TASKS."""
_FIRST_PORT, _PORTS = 20000, 12000
"""Below 32768, from where Linux takes the ports of outgoing connections."""


@dataclass(frozen=True)
class Place:
    """This process among its peers, and where they meet."""

    rank: int
    world_size: int
    local_rank: int
    """Place among the ranks of its node."""
    address: str
    port: int
    launcher: str
    """`torch` (swamp run, torchrun, Ray), `slurm` (srun) or `none` (one process)."""

    def variables(self) -> dict[str, str]:
        """The place in torch's names, which torch.distributed and DeepSpeed read."""
        values = (self.rank, self.world_size, self.local_rank, self.address, self.port)
        return dict(zip(_TORCH, map(str, values), strict=True))


def read_environment(environment: Mapping[str, str] = os.environ) -> Place:
    """The place that the environment describes; alone where it describes none.

    Ranks that were started inside an srun task (by torchrun or `swamp run`) are those of their own launcher.

    Raises:
        UserError: only some of the variables are set, or they are no numbers that fit.
    """
    if environment.get("RANK") or environment.get("WORLD_SIZE"):
        return _torch_place(environment)
    if environment.get("SLURM_STEP_NUM_TASKS"):
        return _slurm_place(environment)
    return Place(0, 1, 0, "127.0.0.1", 0, "none")


def _torch_place(environment: Mapping[str, str]) -> Place:
    fix = "Start ranks with `swamp run JOB --ranks N` or torchrun, or unset RANK and WORLD_SIZE for one process."
    found = _all(environment, _TORCH, fix)
    rank, size, local_rank, port = (
        _number(found, name, fix) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    )
    return _checked(Place(rank, size, local_rank, found["MASTER_ADDR"], port, "torch"), "RANK", fix)


def _slurm_place(environment: Mapping[str, str]) -> Place:
    """Address: first node of the step. Port: made from job and restart, the same on all ranks and another
    for a job that starts again. MASTER_ADDR and MASTER_PORT have the last word where they are set."""
    fix = "Start ranks with `swamp submit JOB --cluster FILE` or srun, or unset SLURM_STEP_NUM_TASKS for one process."
    found = _all(environment, _STEP, fix)
    rank, size, local_rank, job = (
        _number(found, name, fix)
        for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_JOB_ID")
    )
    restart = int(environment.get("SLURM_RESTART_COUNT") or 0)
    step = int(environment.get("SLURM_STEP_ID") or 0)
    address = environment.get("MASTER_ADDR") or first_host(found["SLURM_STEP_NODELIST"])
    port = environment.get("MASTER_PORT") or str(
        _FIRST_PORT + (job + 7919 * restart + 104729 * step) % _PORTS
    )
    number = _number({"MASTER_PORT": port}, "MASTER_PORT", fix)
    return _checked(Place(rank, size, local_rank, address, number, "slurm"), "SLURM_PROCID", fix)


def first_host(node_list: str) -> str:
    """The first host of SLURM's short form: `gpu[007-012,020]-ib,login1` -> `gpu007-ib`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", node_list)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first.group() if first else "")


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


def _checked(place: Place, name: str, fix: str) -> Place:
    if place.rank >= place.world_size:
        raise UserError(
            f"the distributed environment has {name}={place.rank} of {place.world_size} ranks: "
            f"ranks count from 0.\n{fix}"
        )
    return place
