"""The batch scripts of stages and of commands on SLURM: what they ask for and what they run.

submitit hands them to sbatch (`submit.py`). Its own script and its wrapper of a task are not used: they
requeue from rank 0 only, count every interruption of a job shorter than ten minutes as a time-out, pass over
SIGTERM, set CUDA_VISIBLE_DEVICES, and report through pickles. Instead, srun starts
`python -m swamp_dist.backends.rank`, whose exit code the batch script hands to
`python -m swamp_dist.backends.slurm.restart`. The state of a job is told by result.json, events.jsonl and the
scheduler. Pure but for the working folder and this Python.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from swamp_dist.backends import rank_process
from swamp_dist.backends.jobs import owner
from swamp_dist.backends.rank_process import CPU_DEFAULTS, RANK_DEFAULTS
from swamp_dist.backends.slurm.script_text import file_pattern, script_text, shell_words
from swamp_dist.config import SlurmCluster
from swamp_dist.environment import BATCH_MARK
from swamp_dist.errors import UserError
from swamp_dist.runs.folder import RunDir

Options = dict[str, str | None]
"""Options of sbatch by name; None where one takes no value."""
_TOLD, _LONGEST_NAME = 4, 200
"""Folders that may tell one job from another, and characters of a job's name."""
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


def batch_script(name: str, cluster: SlurmCluster, run_dir: RunDir, after: Sequence[str] = ()) -> str:
    """The text that is given to sbatch for a stage.

    Args:
        after: jobs that have to end well first.

    Raises:
        UserError: a path has a form that sbatch cannot be given.
    """
    options = _stage_options(name, cluster, run_dir) | _dependency("afterok", after)
    begin = f"{_restart('begin', run_dir)} || exit $?"
    return script_text(
        options,
        [
            *shell_setup(cluster),
            *(_RAY_KEY if cluster.launcher == "ray" else ()),
            begin,
            f"{_srun(cluster, run_dir)} {_stage_command(cluster, run_dir)}",
            f"exec {_restart('end', run_dir)} $?",
        ],
    )


def command_script(
    name: str, command: Sequence[str], cluster: SlurmCluster, folder: RunDir, after: Sequence[str] = ()
) -> str:
    """The text for a command that runs as one task without GPUs; it may be killed and started again.

    Args:
        after: jobs that have to end first, well or not.

    Raises:
        UserError: as `batch_script`.
    """
    options = _command_options(name, cluster, folder) | _dependency("afterany", after)
    return script_text(options, [*shell_setup(cluster), f"exec {shell_words(*command)}"])


def parts_script(name: str, command: Sequence[str], cluster: SlurmCluster, folder: RunDir, parts: int) -> str:
    """The text for a command that runs as an array, task I with `--part I/N` at its end.

    Raises:
        UserError: as `batch_script`.
    """
    options = _command_options(name, cluster, folder) | {
        "array": f"0-{parts - 1}%{min(parts, cluster.max_jobs)}",
        "output": _log_pattern(folder, "%A_%a_0"),
        "comment": parts_comment(folder),
    }
    part = f"--part ${{SLURM_ARRAY_TASK_ID}}/{parts}"
    return script_text(options, [*shell_setup(cluster), f"exec {shell_words(*command)} {part}"])


def comment(run_dir: RunDir) -> str:
    """What tells a folder's jobs from all others, also where its events do not name them yet."""
    _resolved(run_dir.path)
    return owner(run_dir)


def parts_comment(folder: RunDir) -> str:
    """Of an array of parts: another one than the folder's other jobs, which wait for it."""
    return f"{comment(folder)} parts"


def _resolved(path: Path) -> Path:
    if "\0" in str(path):
        raise UserError(f"{str(path)!r} is no path: it holds NUL. Take the character out of --run-dir.")
    return path.resolve()


def _job_options(name: str, cluster: SlurmCluster, run_dir: RunDir) -> Options:
    """What all jobs on a cluster share; absent where SLURM's default holds."""
    return {
        "requeue": None,
        "open-mode": "append",
        "chdir": os.getcwd(),
        "comment": comment(run_dir),
        "output": _log_pattern(run_dir, "%j_0"),
        "job-name": _job_name(name, run_dir),
        "time": str(cluster.time_limit),
        "signal": f"USR2@{cluster.signal_seconds}",
        "cpus-per-task": str(cluster.cpus_per_task),
        **_where(cluster),
        **_more_options(cluster),
    }


def _where(cluster: SlurmCluster) -> Options:
    optional = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclude": cluster.exclude,
        "reservation": cluster.reservation,
        "licenses": cluster.licenses,
        "clusters": cluster.cluster,
    }
    return {key: value for key, value in optional.items() if value is not None}


def place_options(cluster: SlurmCluster) -> Options:
    """Which nodes a stage asks for and what of each, for one task per node; the same to sbatch and srun."""
    gpus = {"node": "gpus-per-node", "task": "gpus-per-task", "gres": "gres"}[cluster.gpus_by]
    kind = "" if cluster.gpu_type is None else f"{cluster.gpu_type}:"
    count = f"{'gpu:' if gpus == 'gres' else ''}{kind}{cluster.gpus_per_node}"
    return {
        **_where(cluster),
        **_more_options(cluster),
        **_memory(cluster),
        **({gpus: count} if cluster.gpus_per_node else {}),
        "nodes": str(cluster.nodes),
        "cpus-per-task": str(cluster.cpus_per_task * cluster.tasks_per_node),
    }


def _job_name(name: str, run_dir: RunDir) -> str:
    """Name of a job in SLURM's lists: of what it runs, and of its folder where that says more, for example a
    seed or a value of a sweep."""
    parts = [part for part in _resolved(run_dir.path).parts[-_TOLD:] if part != os.sep]
    told = parts[parts.index("runs") + 1 :] if "runs" in parts else parts[-1:]
    words = ["swamp", name, *(part for part in told if part != name)]
    return re.sub(r"[^A-Za-z0-9._-]", "-", "-".join(words))[:_LONGEST_NAME]


def _stage_options(name: str, cluster: SlurmCluster, run_dir: RunDir) -> Options:
    """Under `launcher: ray` a task is a node of the Ray and has the cores of all ranks there."""
    options = _job_options(name, cluster, run_dir) | {
        "nodes": str(cluster.nodes),
        "ntasks-per-node": str(_tasks(cluster)),
        "cpus-per-task": str(_cpus(cluster)),
    }
    return options | _memory(cluster) | (_gpus(cluster) if cluster.gpus_per_node else {})


def _memory(cluster: SlurmCluster) -> Options:
    if cluster.memory_per == "none":
        return {}
    name = {"node": "mem", "cpu": "mem-per-cpu", "gpu": "mem-per-gpu"}[cluster.memory_per]
    return {name: "0" if cluster.memory_gb is None else f"{round(cluster.memory_gb * 1024)}M"}


def _gpus(cluster: SlurmCluster) -> Options:
    kind = "" if cluster.gpu_type is None else f"{cluster.gpu_type}:"
    if cluster.gpus_by == "task":  # which sbatch takes only with the number of all tasks
        each = cluster.gpus_per_node // _tasks(cluster)
        return {"gpus-per-task": f"{kind}{each}", "ntasks": str(cluster.nodes * _tasks(cluster))}
    if cluster.gpus_by == "gres":
        return {"gres": f"gpu:{kind}{cluster.gpus_per_node}"}
    return {"gpus-per-node": f"{kind}{cluster.gpus_per_node}"}


def _command_options(name: str, cluster: SlurmCluster, folder: RunDir) -> Options:
    memory = {} if cluster.memory_per == "gpu" else _memory(cluster)  # it has no GPU to count by
    return _job_options(name, cluster, folder) | memory | {"nodes": "1", "ntasks-per-node": "1"}


def _tasks(cluster: SlurmCluster) -> int:
    return 1 if cluster.launcher == "ray" else cluster.tasks_per_node


def _cpus(cluster: SlurmCluster) -> int:
    return cluster.cpus_per_task * cluster.tasks_per_node // _tasks(cluster)


def _dependency(kind: str, after: Sequence[str]) -> Options:
    """Options of a job that waits for others; `kind` is SLURM's word: afterok or afterany."""
    return {"dependency": ":".join((kind, *after)), "kill-on-invalid-dep": "yes"} if after else {}


def _more_options(cluster: SlurmCluster) -> Options:
    parts = [option.partition("=") for option in cluster.sbatch]
    return {name.strip(): value.strip() if equals else None for name, equals, value in parts}


def _log_pattern(folder: RunDir, file: str) -> str:
    return f"{file_pattern(str(_resolved(folder.job_logs)))}/{file}_log.out"


def shell_setup(cluster: SlurmCluster) -> list[str]:
    """Shell lines at the head of every batch script."""
    on_cpu = CPU_DEFAULTS if cluster.gpus_per_node == 0 else {}
    defaults = {"OMP_NUM_THREADS": str(cluster.cpus_per_task), **on_cpu, **RANK_DEFAULTS}
    variables = defaults | dict(cluster.environment)
    return [
        f"unset {' '.join(_LEFT_BEHIND)}",
        *(f"export {key}={shell_words(value)}" for key, value in variables.items()),
        *cluster.setup,
        f'export {BATCH_MARK}="$SLURM_JOB_ID"',
    ]


def _srun(cluster: SlurmCluster, run_dir: RunDir) -> str:
    """srun and its options. It would start the ranks with few variables or none where SLURM_EXPORT_ENV says
    so, as it does in a job that was submitted under SBATCH_EXPORT=NONE."""
    # The others may end by themselves first: srun's kill-on-bad-exit would cut their last words off.
    return shell_words(
        "srun", "--unbuffered", f"--output={_log_pattern(run_dir, '%j_%t')}", "--open-mode=append",
        "--export=ALL", "--kill-on-bad-exit=0", f"--wait={cluster.peer_seconds}",
        f"--cpus-per-task={_cpus(cluster)}",
    )  # fmt: skip


def _stage_command(cluster: SlurmCluster, run_dir: RunDir) -> str:
    """What srun starts: ranks, or the nodes of a Ray."""
    words = rank_process.rank_command(run_dir.stage_yaml, run_dir.path)
    if cluster.launcher == "ray":
        module = "swamp_dist.backends.ray.slurm_node"
        words = rank_process.rank_command(run_dir.stage_yaml, run_dir.path, module)
    return shell_words(*words)


def _restart(when: str, run_dir: RunDir) -> str:
    module = "swamp_dist.backends.slurm.restart"
    return shell_words(sys.executable, "-u", "-m", module, when, str(run_dir.path))
