"""A short allocation of the nodes that a cluster file asks for: one task on each, and what they print."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from swamp_dist.backends.protocols import SchedulerError
from swamp_dist.backends.slurm.advice import advice
from swamp_dist.backends.slurm.batch_script import place_options, shell_setup
from swamp_dist.backends.slurm.commands import command_environment, command_path, last_line, own_defaults
from swamp_dist.backends.slurm.script_text import shell_words
from swamp_dist.config import SlurmCluster

MINUTES = 2
"""That the tasks may run."""
PATIENCE = 120
"""Seconds that the nodes may take to be free."""
_STARTS = 30
"""Seconds for srun itself to begin and to end."""


def run_on_nodes(cluster: SlurmCluster, command: Sequence[str]) -> str:
    """Run a command once on every node of an allocation of its own; what all of them printed.

    Raises:
        SchedulerError: no such allocation now; says why and what helps.
    """
    srun = command_path("srun")
    if srun is None:
        raise SchedulerError("srun is not on this machine's PATH")
    words = [srun, *srun_options(cluster), *task(cluster, command)]
    limit = PATIENCE + MINUTES * 60 + _STARTS
    # An allocation that outlives a killed srun ends at its own time limit.
    try:
        done = subprocess.run(
            words,
            env=command_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
        )
    except subprocess.TimeoutExpired as late:
        printed = late.stdout or b""
        if printed:  # some nodes have answered
            return printed.decode(errors="replace") if isinstance(printed, bytes) else printed
        raise SchedulerError(f"srun gave no answer within {limit} s") from None
    if done.returncode != 0 and not done.stdout.strip():
        said = last_line(done.stderr)
        fix = advice(done.stderr)
        raise SchedulerError(f"srun: {said}" + (f" {fix}" if fix else ""))
    return done.stdout


def srun_options(cluster: SlurmCluster) -> list[str]:
    """What srun asks for: a job's nodes with all that its ranks have there, for `MINUTES`."""
    options = (
        own_defaults(cluster)
        | place_options(cluster)
        | {
            "job-name": "swamp-doctor",
            "time": str(MINUTES),
            "immediate": str(PATIENCE),
            "ntasks": str(cluster.nodes),
            "ntasks-per-node": "1",
            "export": "ALL",
            "kill-on-bad-exit": "0",
        }
    )
    return [f"--{name}" if value is None else f"--{name}={value}" for name, value in sorted(options.items())]


def task(cluster: SlurmCluster, command: Sequence[str]) -> list[str]:
    """A command under the shell lines that stand before the ranks of a job too."""
    return ["bash", "-c", "\n".join([*shell_setup(cluster), f"exec {shell_words(*command)}"])]
