"""Where a stage runs: this machine, a Ray or a SLURM cluster. Says nothing about the science of a stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from swamp_dist.config.settings import Settings

_OURS = {
    "job-name", "output", "error", "open-mode", "requeue", "no-requeue", "chdir", "signal", "array", "nodes",
    "ntasks", "ntasks-per-node", "time", "mem", "partition", "account", "qos", "constraint", "exclude",
    "gpus-per-node", "cpus-per-task", "export", "comment", "dependency", "kill-on-invalid-dep",
}  # fmt: skip
"""sbatch options that a job's restart or a pipeline depends on, or that have a setting of their own."""


class LocalCluster(Settings):
    """The machine that the command runs on."""

    backend: Literal["local"] = "local"
    """Runs the ranks as processes of this machine and waits for them, as `swamp run` does."""
    ranks: PositiveInt = 1
    """Processes; one a GPU."""

    @property
    def world_size(self) -> int:
        """Ranks of a stage."""
        return self.ranks


class RayCluster(Settings):
    """A Ray: one that runs already, or one of our own on this machine for the time of the stage."""

    backend: Literal["ray"] = "ray"
    """Runs the ranks under Ray Train workers, starts them again from the newest commit when one fails, and waits."""
    address: str | None = None
    """Address of the Ray, for example head-node:6379 or auto; null = RAY_ADDRESS, else a Ray of our own here."""
    workers: PositiveInt = 1
    """Ray Train workers; each starts one rank."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    """GPUs of a worker: 1, or 0 to train on CPUs."""
    cpus_per_worker: PositiveInt = 1
    """CPU cores of a worker, the rank's loader processes included."""
    max_failures: NonNegativeInt = 100
    """How often Ray may start the workers again over the whole stage, whatever their progress."""
    max_restarts: NonNegativeInt = 3
    """How often the ranks may start again from the same committed step before the stage fails for good; a
    restart after progress is not counted."""
    peer_seconds: PositiveInt = 15
    """Seconds that the other ranks get to end by themselves after one has ended or was killed."""
    environment: dict[str, str] = {}
    """Variables set for all ranks."""

    @property
    def world_size(self) -> int:
        """Ranks of a stage."""
        return self.workers

    @property
    def on_gpu(self) -> bool:
        """Whether a rank drives a GPU."""
        return self.gpus_per_worker > 0

    @property
    def cpus_per_rank(self) -> int:
        """CPU cores of a rank."""
        return self.cpus_per_worker

    @property
    def layout(self) -> str:
        """How the ranks lie over machines, for people."""
        return f"{self.workers} Ray Train workers, wherever Ray has room"


class SlurmCluster(Settings):
    """A SLURM cluster: one rank a GPU or CPU share over one or several nodes."""

    backend: Literal["slurm"] = "slurm"
    """Submits a batch job that saves, requeues itself and goes on until the stage is done."""
    launcher: Literal["srun", "ray"] = "srun"
    """What starts the ranks inside the allocation. srun: each is a task, and whatever ends one starts the whole job
    again. ray: a Ray over the job's nodes, whose Ray Train workers start ranks again without a new allocation."""
    nodes: PositiveInt = 1
    """Nodes of the job."""
    tasks_per_node: PositiveInt = 1
    """Ranks of a node: as many as GPUs, or CPU ranks."""
    gpus_per_node: NonNegativeInt = 0
    """GPUs of a node; 0 trains on CPUs."""
    cpus_per_task: PositiveInt = 1
    """CPU cores of a rank, its loader processes included."""
    memory_gb: PositiveFloat | None = None
    """Memory of a node in GiB; null = all of it."""
    time_limit: PositiveInt = 60
    """Minutes that the job may run before it has to save and queue again."""
    signal_seconds: PositiveInt = 120
    """Seconds before the time limit at which the ranks are asked to save; SLURM may be a minute early.
    A step, a commit and the end of a validation have to fit in."""
    partition: str | None = None
    """Partition; null = the cluster's default."""
    account: str | None = None
    """Account that is charged; null = your default."""
    qos: str | None = None
    """Quality of service; null = your default."""
    constraint: str | None = None
    """Node features to ask for, for example h100; null = any."""
    exclude: str | None = None
    """Nodes to stay away from, for example gpu[07,12]; null = none."""
    sbatch: tuple[str, ...] = ()
    """More sbatch options, each as `name=value` or `name`: for example reservation=spring."""
    setup: tuple[str, ...] = ()
    """Shell lines run on the first node before the ranks start: modules, a virtual environment."""
    environment: dict[str, str] = {}
    """Variables set for all ranks, on top of those of the shell that submits."""
    max_restarts: NonNegativeInt = 3
    """How often the job may start again from the same committed step before it fails for good; a restart
    after progress is not counted."""
    max_jobs: PositiveInt = 16
    """Stages that a pipeline's command keeps queued or running at a time, and parts of a shard set that are
    built at a time. Of a graph that is handed over (--detach) every stage is in the queue."""
    peer_seconds: PositiveInt = 15
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
        """CPU cores of a rank."""
        return self.cpus_per_task

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
                f"signal_seconds = {self.signal_seconds} is not less than time_limit = {self.time_limit} minutes: "
                "every start would be asked to save at once; raise time_limit or lower signal_seconds"
            )
        for option in self.sbatch:
            name = option.partition("=")[0].strip()
            if name in _OURS or name.startswith("-") or not name:
                raise ValueError(
                    f"sbatch option {option!r}: expected `name=value` without leading dashes, and none of those "
                    f"that have a setting here or that restarts rely on ({', '.join(sorted(_OURS))})"
                )
        return self


ClusterSettings = Annotated[LocalCluster | RayCluster | SlurmCluster, Field(discriminator="backend")]
BACKENDS: dict[str, type[LocalCluster] | type[RayCluster] | type[SlurmCluster]] = {
    "local": LocalCluster,
    "ray": RayCluster,
    "slurm": SlurmCluster,
}
"""Settings by the value of `backend`."""
