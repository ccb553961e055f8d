"""SLURM as a backend: a stage is a batch job that saves, requeues itself and goes on until it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import final

from swamp_dist.backends.follow import run_as_job
from swamp_dist.backends.jobs import submit_stage
from swamp_dist.backends.protocols import (
    BuildBackend,
    CheckedBackend,
    Report,
    SiteBackend,
    StageRef,
)
from swamp_dist.backends.slurm import allocation, checks, queue, site, submit
from swamp_dist.backends.slurm.answer import Submitted
from swamp_dist.backends.slurm.batch_script import batch_script, comment
from swamp_dist.backends.slurm.commands import scheduler_mark
from swamp_dist.backends.slurm.shared_answer import shared_answer
from swamp_dist.config import SlurmCluster
from swamp_dist.records import Finding, JobState
from swamp_dist.runs.folder import RunDir


@final
@dataclass(frozen=True)
class SlurmBackend(BuildBackend, CheckedBackend, SiteBackend):
    """A SLURM cluster."""

    cluster: SlurmCluster
    named: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Clusters that sbatch has named in its answers, by job."""

    @property
    def title(self) -> str:
        """Name of the scheduler."""
        return "SLURM" if self.cluster.cluster is None else f"SLURM cluster {self.cluster.cluster}"

    @property
    def world_size(self) -> int:
        """Ranks of a stage."""
        return self.cluster.world_size

    @property
    def max_jobs(self) -> int:
        """Jobs that one command keeps queued or running at a time."""
        return self.cluster.max_jobs

    @property
    def cpus_per_job(self) -> int:
        """CPU cores of a job that runs a command."""
        return self.cluster.cpus_per_task

    def check(self) -> None:
        """Ask whether jobs can be submitted from this machine.

        Raises:
            UserError: it has no SLURM commands.
        """
        queue.refuse_without_slurm()

    def run(self, stage: StageRef, report: Report) -> int:
        """Submit a stage, or find its job, and follow it to its end; an `ExitCode`."""
        return run_as_job(self, stage.run_dir, partial(submit_stage, self, stage), report)

    def describe(self, stage: StageRef) -> str:
        """The batch script."""
        script = batch_script(stage.name, self.cluster, stage.run_dir)
        return f"\n{script}\nnothing was submitted (--dry-run)"

    def submit(self, stage: StageRef, after: Sequence[str] = ()) -> str:
        """Give the stage's batch script to sbatch; the job id. The folder keeps the cluster it went to."""
        found = submit.submit(stage.name, self.cluster, stage.run_dir, after)
        if found.cluster not in (None, self.cluster.cluster):
            stage.run_dir.write_cluster(self.cluster.model_copy(update={"cluster": found.cluster}))
        return self._note(found)

    def _note(self, found: Submitted) -> str:
        if found.cluster is not None:
            self.named[found.id] = found.cluster
        return found.id

    def _cluster_of(self, job: str) -> str | None:
        return self.named.get(job, self.cluster.cluster)

    def jobs(self, ids: Sequence[str]) -> dict[str, JobState]:
        """What squeue and scontrol know about these jobs."""
        found: dict[str, JobState] = {}
        for cluster in dict.fromkeys(map(self._cluster_of, ids)):
            found |= queue.jobs([job for job in ids if self._cluster_of(job) == cluster], cluster)
        return found

    def follow(self, ids: Sequence[str]) -> dict[str, JobState]:
        """As `jobs`, one question for all processes of this user and machine."""
        found: dict[str, JobState] = {}
        for cluster in dict.fromkeys(map(self._cluster_of, ids)):
            own = [job for job in ids if self._cluster_of(job) == cluster]
            ask = partial(queue.jobs, cluster=cluster)
            found |= shared_answer(own, f"{scheduler_mark()} {cluster}", ask)
        return found

    def find(self, run_dir: RunDir) -> list[str]:
        """Jobs that carry the folder's comment."""
        return queue.find(comment(run_dir), self.cluster.cluster)

    def cancel(self, job: str, now: bool) -> None:
        """Switch requeueing off and end the job."""
        queue.cancel(job, now, self._cluster_of(job))

    def commands(self, jobs: Sequence[str]) -> Mapping[str, str]:
        """SLURM's commands for these jobs."""
        on = "".join(f"{word} " for word in queue.on(self._cluster_of(jobs[0]) if jobs else None))
        return {
            "state": f"squeue {on}-j {','.join(jobs)}",
            "save, requeue and go on": f"scancel {on}--signal=USR2 {' '.join(jobs)}",
        }

    def submit_command(
        self, name: str, command: Sequence[str], folder: RunDir, after: Sequence[str] = ()
    ) -> str:
        """Submit a command as a job of one task; the job id."""
        return self._note(submit.submit_command(name, command, self.cluster, folder, after))

    def submit_parts(self, name: str, command: Sequence[str], folder: RunDir, parts: int) -> str:
        """Submit a command as a job array, or find it; the job id."""
        return self._note(submit.submit_parts(name, command, self.cluster, folder, parts))

    def check_time_to_save(self, needed: float | None, how: str) -> Iterator[Finding]:
        """The signal's seconds and KillWait against one step plus one save."""
        return checks.check_time_to_save(self.cluster.signal_seconds, needed, how)

    def check_requeue(self) -> Iterator[Finding]:
        """Whether the cluster lets a job into the queue again."""
        return checks.check_requeue()

    def check_site(self) -> Iterator[Finding]:
        """Partition, limits, nodes, account and QOS of the cluster file against SLURM's words."""
        return site.check_site(self.cluster)

    @property
    def nodes(self) -> int:
        """Nodes of a stage."""
        return self.cluster.nodes

    @property
    def ranks_per_node(self) -> int:
        """Ranks on each."""
        return self.cluster.tasks_per_node

    @property
    def gpus_per_node(self) -> int:
        """GPUs on each."""
        return self.cluster.gpus_per_node

    def run_on_nodes(self, command: Sequence[str]) -> str:
        """Run a command under srun, one task per node; what all printed."""
        return allocation.run_on_nodes(self.cluster, command)
