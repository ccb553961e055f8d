"""What a backend is: two small protocols, and two that a scheduler may fulfil on top.

A backend knows where ranks run and nothing about what a stage is. What is said once for all of them stands
beside this module: which job works on a folder (`jobs.py`), waiting for its end (`follow.py`), what a rank's
process is (`rank_process.py`, `rank.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from swamp_dist.records import Finding, JobState
from swamp_dist.runs.folder import RunDir

Report = Callable[[str], None]
"""Told what the user is to read."""


class SchedulerError(Exception):
    """The scheduler is not here or gives no answer; says why in one line."""


@dataclass(frozen=True)
class StageRef:
    """A stage that is ready to run: `run_dir` holds its stage.yaml, and its cluster.yaml for a scheduler."""

    name: str
    run_dir: RunDir


class Backend(Protocol):
    """Where the ranks of a stage run."""

    @property
    def world_size(self) -> int:
        """Ranks of a stage."""

    def check(self) -> None:
        """Ask whether a stage can be started from this machine at all.

        Raises:
            UserError: it cannot; names what is missing.
        """

    def run(self, stage: StageRef, report: Report) -> int:
        """Run a stage to its end and wait for it; an `ExitCode`.

        Raises:
            UserError: the ranks cannot be started.
        """

    def describe(self, stage: StageRef) -> str:
        """What would be started, for `--dry-run`; starts and writes nothing."""


@runtime_checkable
class JobBackend(Backend, Protocol):
    """A scheduler: its jobs outlive the command that submits them. `follow.run_as_job` is a `run` for it."""

    @property
    def title(self) -> str:
        """Name of the scheduler for people, for example SLURM."""

    @property
    def max_jobs(self) -> int:
        """Jobs that one command keeps queued or running at a time."""

    def submit(self, stage: StageRef, after: Sequence[str] = ()) -> str:
        """Submit a stage; the id of its job.

        Args:
            after: jobs that have to end well first. A job that saves and requeues itself keeps its id and has
                not ended. Where one of them fails, this job never starts.

        Raises:
            UserError: the scheduler is not here or refuses the job; its words are passed on.
        """

    def jobs(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Jobs by their ids, in one question; those that the scheduler does not know (any more) are left out.

        Raises:
            SchedulerError: no answer.
        """

    def follow(self, ids: Sequence[str]) -> dict[str, JobState]:
        """As `jobs`, for questions that many processes ask again and again; an answer may be seconds old.

        Raises:
            SchedulerError: no answer.
        """
        return self.jobs(ids)

    def find(self, run_dir: RunDir) -> list[str]:
        """Ids of this user's jobs for a run folder that wait or run, also where nobody noted them.

        Raises:
            SchedulerError: no answer.
        """

    def cancel(self, job: str, now: bool) -> None:
        """Take a job out of the queue or end it, for good.

        Args:
            now: kill it at once; else its ranks are asked to save first.

        Raises:
            SchedulerError: it does not answer or refuses.
        """

    def commands(self, jobs: Sequence[str]) -> Mapping[str, str]:
        """The scheduler's own commands for these jobs, by what they are good for: at least `state`."""


@runtime_checkable
class BuildBackend(JobBackend, Protocol):
    """A scheduler that also builds shard sets: it runs commands, alone or as an array of parts."""

    @property
    def cpus_per_job(self) -> int:
        """CPU cores of a job that runs a command."""

    def submit_command(
        self, name: str, command: Sequence[str], folder: RunDir, after: Sequence[str] = ()
    ) -> str:
        """Submit a command that may be killed and started again, after other jobs have ended; the job.

        Args:
            folder: where its logs go, and what `find` tells its jobs by.

        Raises:
            UserError: as `submit`.
        """

    def submit_parts(self, name: str, command: Sequence[str], folder: RunDir, parts: int) -> str:
        """Submit a command as `parts` tasks, task I with `--part I/N` at its end, or find them; the job.

        `find` does not list it.

        Raises:
            UserError: as `submit`.
            SchedulerError: no answer.
        """


@runtime_checkable
class CheckedBackend(Protocol):
    """A backend with settings that `swamp doctor` can look at."""

    def check_time_to_save(self, needed: float | None, how: str) -> Iterator[Finding]:
        """Whether a run has the time to save when it is asked to stop.

        Args:
            needed: seconds of one step and one save; None where no run tells.
            how: how they come about, or why they are not known.
        """

    def check_requeue(self) -> Iterator[Finding]:
        """Whether a job is let into the queue again."""


@runtime_checkable
class SiteBackend(Protocol):
    """A scheduler whose nodes are other machines than the one that submits; `swamp doctor` looks at both."""

    @property
    def title(self) -> str:
        """Name of the scheduler for people."""

    def check_site(self) -> Iterator[Finding]:
        """Whether the scheduler would take a job of the cluster file; only reads."""

    @property
    def nodes(self) -> int:
        """Nodes of a stage."""

    @property
    def ranks_per_node(self) -> int:
        """Ranks on each."""

    @property
    def gpus_per_node(self) -> int:
        """GPUs on each that ranks drive."""

    def run_on_nodes(self, command: Sequence[str]) -> str:
        """Run a command once on each node of a short allocation and wait; what all of them printed.

        Raises:
            SchedulerError: there is no allocation now; says why.
        """
