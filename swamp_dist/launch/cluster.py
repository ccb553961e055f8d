"""A stage on a SLURM cluster: its batch script, its submission, and what it will take.

submitit writes and submits the batch script. Its own wrapper of a task is not used: it requeues from rank 0
only, counts every interruption of a job shorter than ten minutes as a time-out, passes over SIGTERM, sets
CUDA_VISIBLE_DEVICES, and reports through pickles. srun starts `python -m swamp_dist.launch.rank`
instead, whose exit code the batch script hands to `python -m swamp_dist.launch.attempt`. The state of a job
is told by result.json, events.jsonl and the scheduler.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swamp_dist.config import SlurmCluster, StageSettings
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.lanes import steps_per_epoch as epoch_steps
from swamp_dist.data.manifest import Manifest
from swamp_dist.launch.local import CPU_DEFAULTS, RANK_DEFAULTS
from swamp_dist.launch.preflight import training_split
from swamp_dist.launch.rundir import RunDir
from swamp_dist.records import UserError

_LEFT_BEHIND = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "PYTHONDONTWRITEBYTECODE",
)  # fmt: skip
"""Variables of the shell that submits which the ranks must not inherit: a world of its own, and the order
to compile every module anew at every start."""
_RAY_KEY = (
    "export RAY_AUTH_MODE=token",
    "export RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')",
)
"""A key that only this job's processes know, new at every start: a Ray without one runs anybody's code who
reaches its port. srun hands it to all nodes; no file has it."""


@dataclass(frozen=True)
class StagePlan:
    """How a stage is laid over the ranks of a cluster."""

    ranks: int
    local_pairs: int
    """Pairs of a rank in a step; 0 for a stage that only evaluates."""
    steps_per_epoch: int
    steps: int


def plan_stage(settings: StageSettings, manifest: Manifest, ranks: int) -> StagePlan:
    """The plan of a stage that passed `check_stage` for so many ranks."""
    if settings.train is None:
        return StagePlan(ranks, 0, 0, 0)
    data, entries = settings.data, len(training_split(settings, manifest))
    batches = plan_batches(data.entries, data.pairs_per_entry, data.num_lanes, ranks, entries)
    an_epoch = epoch_steps(entries, batches)
    return StagePlan(ranks, batches.local_pairs, an_epoch, an_epoch * settings.train.epochs)


def batch_script(name: str, cluster: SlurmCluster, run_dir: RunDir) -> str:
    """The text that `submit` gives to sbatch. Pure but for the working folder and this Python's path."""
    from submitit.slurm.slurm import _make_sbatch_string  # the executor's own; its constructor wants an srun

    folder = run_dir.slurm_logs.resolve()
    text: str = _make_sbatch_string(_command(cluster, run_dir), folder, **_parameters(name, cluster, run_dir))
    return text


def submit(name: str, cluster: SlurmCluster, run_dir: RunDir, after: Sequence[str] = ()) -> str:
    """Submit the stage that `run_dir` holds; the job id.

    Args:
        after: jobs that have to end well first. A job that saves and requeues itself keeps its id and has
            not ended. Where one of them fails, SLURM cancels this job.

    Raises:
        UserError: there is no SLURM here, or it refuses the job; its words are passed on.
    """
    parameters = with_dependency(_parameters(name, cluster, run_dir), "afterok", after)
    job = send(_command(cluster, run_dir), parameters, run_dir)
    run_dir.append_event(
        "submitted", job=job, ranks=cluster.world_size, **({"after": list(after)} if after else {})
    )
    return job


def with_dependency(parameters: Mapping[str, Any], kind: str, after: Sequence[str]) -> dict[str, Any]:
    """Parameters of a job that waits for others; `kind` is SLURM's word: afterok or afterany."""
    if not after:
        return dict(parameters)
    more = {"dependency": ":".join((kind, *after)), "kill-on-invalid-dep": "yes"}
    return dict(parameters) | {"additional_parameters": parameters["additional_parameters"] | more}


def send(command: str, parameters: Mapping[str, Any], run_dir: RunDir) -> str:
    """Give a batch script to sbatch; the job id.

    Raises:
        UserError: there is no SLURM here, or it refuses the job; its words are passed on.
    """
    import submitit
    from submitit.core.utils import FailedJobError

    refuse_without_slurm()
    run_dir.slurm_logs.mkdir(parents=True, exist_ok=True)
    executor = submitit.SlurmExecutor(run_dir.slurm_logs.resolve())
    executor.update_parameters(**parameters)
    try:
        # Not `submit`, which would wrap a pickled function; this hands over the command as it is.
        return str(executor._submit_command(command).job_id)
    except FailedJobError as error:
        raise UserError(f"sbatch refused the job:\n{_sbatch_words(str(error))}") from None


def refuse_without_slurm() -> None:
    """Ask whether jobs can be submitted from this machine.

    Raises:
        UserError: it has no SLURM commands.
    """
    if shutil.which("srun") is None:
        raise UserError(
            "this machine has no SLURM commands (srun is not on PATH).\n"
            "Submit from a login node; --dry-run works anywhere; tools/slurm/start.sh starts a SLURM on one host."
        )


def comment(run_dir: RunDir) -> str:
    """What tells a folder's jobs from all others, also where its events do not name them yet."""
    return str(run_dir.path.resolve())


def job_parameters(name: str, cluster: SlurmCluster, run_dir: RunDir) -> dict[str, Any]:
    """What all jobs on a cluster share, in the names of submitit's SLURM executor; absent where SLURM's
    default holds."""
    optional = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclude": cluster.exclude,
    }
    return {key: value for key, value in optional.items() if value is not None} | {
        "job_name": f"swamp-{re.sub(r'[^A-Za-z0-9._-]', '-', name)}",
        "time": cluster.time_limit,
        "cpus_per_task": cluster.cpus_per_task,
        "mem": "0" if cluster.memory_gb is None else f"{round(cluster.memory_gb * 1024)}M",
        "wckey": None,
        "comment": comment(run_dir),
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True, "chdir": os.getcwd(), **_more_options(cluster)},
    }


def _parameters(name: str, cluster: SlurmCluster, run_dir: RunDir) -> dict[str, Any]:
    """The job of a stage. Under `launcher: ray` a task is a node of the Ray and has the cores of all ranks there."""
    tasks = 1 if cluster.launcher == "ray" else cluster.tasks_per_node
    cpus = cluster.cpus_per_task * cluster.tasks_per_node // tasks
    gpus = {"gpus_per_node": cluster.gpus_per_node} if cluster.gpus_per_node else {}
    return job_parameters(name, cluster, run_dir) | gpus | {
        "nodes": cluster.nodes,
        "ntasks_per_node": tasks,
        "cpus_per_task": cpus,
        "signal_delay_s": cluster.signal_seconds,
        # The others may end by themselves first: srun's kill-on-bad-exit would cut their last words off.
        "srun_args": [
            "--kill-on-bad-exit=0", f"--wait={cluster.peer_seconds}", "--open-mode=append",
            f"--cpus-per-task={cpus}",
        ],
        "setup": _setup(cluster, run_dir),
        "teardown": [f"exec {_python('attempt')} end {shlex.quote(str(run_dir.path))} $?"],
    }  # fmt: skip


def _more_options(cluster: SlurmCluster) -> dict[str, str | bool]:
    parts = [option.partition("=") for option in cluster.sbatch]
    return {name.strip(): value.strip() if equals else True for name, equals, value in parts}


def _setup(cluster: SlurmCluster, run_dir: RunDir) -> list[str]:
    begin = f"{_python('attempt')} begin {shlex.quote(str(run_dir.path))} || exit $?"
    key = _RAY_KEY if cluster.launcher == "ray" else ()
    return [*shell_setup(cluster), *key, begin]


def shell_setup(cluster: SlurmCluster) -> list[str]:
    """Shell lines at the head of every batch script."""
    on_cpu = CPU_DEFAULTS if cluster.gpus_per_node == 0 else {}
    defaults = {"OMP_NUM_THREADS": str(cluster.cpus_per_task), **on_cpu, **RANK_DEFAULTS}
    variables = defaults | dict(cluster.environment)
    return [
        f"unset {' '.join(_LEFT_BEHIND)}",
        *(f"export {key}={shlex.quote(value)}" for key, value in variables.items()),
        *cluster.setup,
    ]


def _command(cluster: SlurmCluster, run_dir: RunDir) -> str:
    arguments = shlex.join([str(run_dir.stage_yaml), str(run_dir.path)])
    return f"{_python('ray_node' if cluster.launcher == 'ray' else 'rank')} {arguments}"


def _python(module: str) -> str:
    return f"{shlex.quote(sys.executable)} -u -m swamp_dist.launch.{module}"


def _sbatch_words(error: str) -> str:
    lines = [line for line in error.splitlines() if line.startswith("sbatch:")]
    return "\n".join(dict.fromkeys(lines)) or error.strip()
