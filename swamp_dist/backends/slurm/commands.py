"""SLURM's commands as child processes: what they inherit from this one, and how long they may take."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from swamp_dist.backends.protocols import SchedulerError
from swamp_dist.config import SlurmCluster

SECONDS = 5.0
"""That a question may take."""
_OF_SLURM = ("SLURM", "SRUN_", "SBATCH_", "SALLOC_", "SQUEUE_", "SCANCEL_", "SINFO_", "PMI_", "PMIX_")
"""How variables begin that describe an allocation around this process, or change what a command does."""
_TO_REACH_IT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS"}
"""Variables that say where the scheduler is and who asks."""
_EXPORT = "SBATCH_EXPORT"
"""What of the submitting shell goes into the job; `environment` and `setup` reach the ranks all the same."""
_DEFAULTS = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_CONSTRAINT": "constraint",
}
"""A user's own defaults, by the setting that stands above them."""


def ask(*command: str) -> subprocess.CompletedProcess[str]:
    """A command's answer.

    Raises:
        SchedulerError: it is not here, or gives no answer.
    """
    words, own = (command_path(command[0]) or command[0], *command[1:]), command_environment()
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, env=own)
    except FileNotFoundError:
        raise SchedulerError(f"{command[0]} is not on this machine's PATH") from None
    except subprocess.TimeoutExpired:
        raise SchedulerError(f"{command[0]} gave no answer within {SECONDS:.0f} s") from None


def command_path(name: str) -> str | None:
    """Where a command is: on PATH, or beside srun, which is there on every node that runs ranks."""
    srun = shutil.which("srun")
    return shutil.which(name) or (srun and shutil.which(name, path=str(Path(srun).resolve().parent)))


def last_line(text: str) -> str:
    """The last line of what a command said."""
    return (text.strip().splitlines() or ["no reason given"])[-1]


def scheduler_mark() -> str:
    """What tells the scheduler that the commands here speak to from another one."""
    return f"{command_path('squeue')} {[os.environ.get(name) for name in sorted(_TO_REACH_IT)]}"


def command_environment(own: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of a command: those of this process (or `own`) without the allocation around it.

    A driver in a job, or a shell inside `salloc`, has SLURM's own variables; srun and sbatch would read
    them as options of the new job, and squeue as filters of its answer.
    """
    own = os.environ if own is None else own
    return {k: v for k, v in own.items() if k in _TO_REACH_IT or not k.startswith(_OF_SLURM)}


def sbatch_environment(cluster: SlurmCluster, own: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of sbatch, which the job gets too. None of them overrules the cluster file."""
    own = os.environ if own is None else own
    kept = {_EXPORT, *(name for name, key in _DEFAULTS.items() if getattr(cluster, key) is None)}
    return command_environment(own) | {name: own[name] for name in kept if name in own}


def own_defaults(cluster: SlurmCluster) -> dict[str, str | None]:
    """The user's own defaults of sbatch as options, for commands that do not read its variables."""
    kept = sbatch_environment(cluster)
    return {key: kept[name] for name, key in _DEFAULTS.items() if name in kept}
