"""A SLURM cluster."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from swamp_dist.bounds import Cores, Gibibytes, Minutes, Processes, Seconds, Tries
from swamp_dist.config.backends import SizedCluster

_OURS = {
    "job-name", "output", "error", "open-mode", "requeue", "no-requeue", "chdir", "signal", "array", "nodes",
    "ntasks", "ntasks-per-node", "time", "mem", "partition", "account", "qos", "constraint", "exclude",
    "gpus-per-node", "cpus-per-task", "export", "comment", "dependency", "kill-on-invalid-dep", "clusters",
    "parsable", "test-only", "wrap", "uid", "gid", "gpus", "gpus-per-socket", "gpus-per-task",
    "tres-per-task", "ntasks-per-gpu", "cpus-per-gpu", "mem-per-cpu", "mem-per-gpu",
}  # fmt: skip
"""sbatch options that a job's restart or a pipeline depends on, or that have a setting of their own."""
_EITHER = ("reservation", "licenses")
"""Options that have a setting and may stand in `sbatch` all the same, but not in both."""
_SHELLS_OWN = re.compile(
    "BASH.*|RANDOM|SRANDOM|SECONDS|LINENO|HISTCMD|OPT[A-Z]+|E?UID|PPID|GROUPS|EPOCH[A-Z]+|IFS|ENV|PS[0-9]|"
    "PROMPT_COMMAND|SHELLOPTS|FUNCNAME|DIRSTACK|PIPESTATUS|_"
)
"""Variables whose value bash itself reads: some evaluate it, so that text in it would run as a command."""
_LONGEST = 4096


def _sbatch_value(text: str) -> str:
    """A text that may stand on a `#SBATCH` line: sbatch reads the script line by line, and no quoting of a
    line break or a backslash means the same to it and to a shell."""
    if not text or not text.isprintable() or "\\" in text or len(text) > _LONGEST:
        raise ValueError(
            f"expected one line of 1 to {_LONGEST} printable characters without a backslash (null where "
            f"nothing is asked for); found {text[:80]!r}"
        )
    return text


def _variable(name: str) -> str:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) or _SHELLS_OWN.fullmatch(name):
        raise ValueError(
            f"expected the name of a variable: letters, digits and _, and none that bash itself keeps; "
            f"found {name[:80]!r}"
        )
    return name


def _value(text: str) -> str:
    """A text that an environment can hold."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"expected a text without NUL and half characters; found {text[:80]!r}")
    return text


SbatchValue = Annotated[str, AfterValidator(_sbatch_value)]
VariableName = Annotated[str, AfterValidator(_variable)]
EnvironmentText = Annotated[str, AfterValidator(_value)]


class SlurmCluster(SizedCluster):
    """A SLURM cluster: one rank per GPU or CPU share over one or several nodes."""

    backend: Literal["slurm"] = "slurm"
    """Submits a batch job that saves, requeues itself and goes on until the stage is done."""
    launcher: Literal["srun", "ray"] = "srun"
    """What starts the ranks inside the allocation. srun: each is a task, and whatever ends one starts the
    whole job again. ray: a Ray over the job's nodes, whose Ray Train workers start ranks again without a new
    allocation."""
    nodes: Processes = 1
    """Nodes of the job."""
    tasks_per_node: Processes = 1
    """Ranks per node: as many as GPUs, or CPU ranks."""
    gpus_per_node: Annotated[int, Field(ge=0, le=1024)] = 0
    """GPUs per node; 0 trains on CPUs."""
    cpus_per_task: Cores = 1
    """CPU cores per rank, its loader processes included."""
    gpu_type: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]+$")] | None = None
    """Kind of GPU as the cluster calls it, for example h100; null = any."""
    gpus_by: Literal["node", "task", "gres"] = "node"
    """How GPUs are asked for: --gpus-per-node, --gpus-per-task (a rank then sees one GPU) or --gres=gpu."""
    memory_gb: Gibibytes | None = None
    """Memory in GiB, of each node where memory_per does not say otherwise; null = all of it."""
    memory_per: Literal["node", "cpu", "gpu", "none"] = "node"
    """What memory_gb counts for. none: no memory is asked for, and the partition's default holds."""
    time_limit: Minutes = 60
    """Minutes that the job may run before it has to save and queue again."""
    signal_seconds: Seconds = 120
    """Seconds before the time limit at which the ranks are asked to save; SLURM may be a minute early.
    A step, a commit and the end of a validation have to fit in."""
    partition: SbatchValue | None = None
    """Partition; null = the cluster's default."""
    account: SbatchValue | None = None
    """Account that is charged; null = your default, SBATCH_ACCOUNT included."""
    cluster: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]+$")] | None = None
    """One of several clusters that share a database (sbatch -M); null = the one that the commands here speak
    to. Where sbatch names another one in its answer, the run folder's cluster.yaml remembers it."""
    qos: SbatchValue | None = None
    """Quality of service; null = your default."""
    reservation: SbatchValue | None = None
    """Reservation to run in; null = none."""
    licenses: SbatchValue | None = None
    """Licences to hold while the job runs, for example fs1:2; null = none."""
    constraint: SbatchValue | None = None
    """Node features to ask for, for example h100; null = any."""
    exclude: SbatchValue | None = None
    """Nodes to stay away from, for example gpu[07,12]; null = none."""
    sbatch: tuple[SbatchValue, ...] = ()
    """More sbatch options, each as `name=value` or `name`: for example exclusive."""
    setup: tuple[EnvironmentText, ...] = ()
    """Shell lines run on the first node before the ranks start: modules, a virtual environment."""
    environment: dict[VariableName, EnvironmentText] = {}
    """Variables set for all ranks, on top of those of the shell that submits."""
    max_restarts: Tries = 3
    """How often the job may start again from the same committed step before it fails for good; a restart
    after progress is not counted."""
    max_jobs: Processes = 16
    """Stages that a pipeline's command keeps queued or running at a time, and parts of a shard set that are
    built at a time. Of a graph that is handed over (--detach) every stage is in the queue."""
    peer_seconds: Seconds = 15
    """Seconds that the other ranks get to end by themselves after one has ended or was killed."""

    @property
    def world_size(self) -> int:
        """Ranks of a stage."""
        return self.nodes * self.tasks_per_node

    @property
    def on_gpu(self) -> bool:
        """Whether a rank drives a GPU."""
        return self.gpus_per_node > 0

    @property
    def cpus_per_rank(self) -> int:
        """CPU cores per rank."""
        return self.cpus_per_task

    @property
    def memory_per_rank(self) -> int | None:
        """Bytes of a node's memory that the settings give to a rank; None where they do not say."""
        if self.memory_gb is None:
            return None
        shares = {"node": self.tasks_per_node, "cpu": 1 / self.cpus_per_task, "gpu": 1, "none": 1}
        return int(self.memory_gb * 2**30 / shares[self.memory_per])

    @property
    def layout(self) -> str:
        """How the ranks lie over machines, for people."""
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
        return f"{nodes} x {self.tasks_per_node}"

    @model_validator(mode="after")
    def _parts_fit(self) -> SlurmCluster:
        if self.gpus_per_node and self.tasks_per_node != self.gpus_per_node:
            raise ValueError(
                f"tasks_per_node = {self.tasks_per_node} but gpus_per_node = {self.gpus_per_node}: "
                "a rank drives one GPU; give both the same number, or gpus_per_node = 0 for CPU ranks"
            )
        if self.signal_seconds >= self.time_limit * 60:
            raise ValueError(
                f"signal_seconds = {self.signal_seconds} is not less than time_limit = {self.time_limit} "
                "minutes: every start would be asked to save at once; raise time_limit or lower "
                "signal_seconds"
            )
        _check_memory(self)
        if self.gpu_type is not None and not self.gpus_per_node:
            raise ValueError(f"gpu_type = {self.gpu_type} but gpus_per_node = 0: give it, or no gpu_type")
        _check_options(self)
        return self


def _check_memory(cluster: SlurmCluster) -> None:
    per, asked = cluster.memory_per, cluster.memory_gb
    if per == "none" and asked is not None:
        raise ValueError(
            f"memory_per = none but memory_gb = {asked:g}: give memory_gb: null, or node, cpu or gpu"
        )
    if per in ("cpu", "gpu") and asked is None:
        raise ValueError(f"memory_per = {per} needs a memory_gb: the GiB of one {per.upper()}")
    if per == "gpu" and not cluster.gpus_per_node:
        raise ValueError("memory_per = gpu but gpus_per_node = 0: give memory_per: cpu or node")


def _check_options(cluster: SlurmCluster) -> None:
    """Refuse in `sbatch` what a setting says, and what sbatch would refuse."""
    names = [option.partition("=")[0].strip() for option in cluster.sbatch]
    for name, option in zip(names, cluster.sbatch, strict=True):
        if name in _OURS or not re.fullmatch("[a-z][a-z0-9-]*", name):
            raise ValueError(
                f"sbatch option {option!r}: expected `name=value` without leading dashes, and none of "
                f"those that have a setting here or that restarts rely on ({', '.join(sorted(_OURS))})"
            )
        if name == "gres" and "gpu" in option:
            raise ValueError(f"sbatch option {option!r}: GPUs are gpus_per_node, gpu_type and gpus_by: gres")
        if names.count(name) > 1:
            raise ValueError(f"sbatch option {name!r} is given twice: leave one")
        if name in _EITHER and getattr(cluster, name) is not None:
            raise ValueError(f"sbatch option {option!r} and the setting {name}: leave one of them")
    if {"core-spec", "thread-spec"} <= set(names):
        raise ValueError("sbatch refuses core-spec together with thread-spec: leave one of them out")
    listed = next((o.partition("=")[2] for o in cluster.sbatch if o.startswith("nodelist=")), "")
    both = set(listed.split(",")) & set((cluster.exclude or "").split(",")) - {""}
    if both:
        raise ValueError(
            f"nodelist in sbatch and exclude both name {', '.join(sorted(both))}: leave it in one"
        )
