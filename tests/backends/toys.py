"""Two backends of tests: one waits for a child with the ranks, the jobs of one outlive the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from swamp_dist.backends import rank_process
from swamp_dist.backends.follow import run_as_job
from swamp_dist.backends.jobs import submit_stage
from swamp_dist.backends.protocols import Backend, JobBackend, Report, StageRef
from swamp_dist.records import JobState
from swamp_dist.runs.folder import RunDir
from tests.backends.queue_server import Queue

RANKS_HERE = (
    "import sys\nfrom pathlib import Path\nfrom swamp_dist.backends.local import run_ranks\n"
    "stage, run, ranks, module = sys.argv[1:]\n"
    "sys.exit(run_ranks(Path(stage), Path(run), int(ranks), module=module, patience=1.0))"
)


def ranks_command(stage: StageRef, ranks: int) -> list[str]:
    """A process that starts the ranks of a stage, passes signals on and waits."""
    folder, module = stage.run_dir, rank_process.RANK_MODULE
    return [sys.executable, "-c", RANKS_HERE, str(folder.stage_yaml), str(folder.path), str(ranks), module]


@dataclass(frozen=True)
class ChildBackend(Backend):
    """Starts the ranks in a child process with an environment of its own and waits for it."""

    ranks: int

    @property
    def world_size(self) -> int:
        return self.ranks

    def check(self) -> None:
        """Nothing is needed."""

    def run(self, stage: StageRef, report: Report) -> int:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environment = kept | {"OF_THE_CHILD": "1"}
        child = subprocess.Popen(ranks_command(stage, self.ranks), env=environment, start_new_session=True)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, lambda received, _frame: child.send_signal(received))
        report(f"ranks run below process {child.pid}")
        return child.wait()

    def describe(self, stage: StageRef) -> str:
        return f"would run {self.ranks} ranks below a child process in {stage.run_dir.path}"


@dataclass(frozen=True)
class QueueBackend(JobBackend):
    """Keeps jobs in a folder; a server, which is another process, runs them."""

    ranks: int
    folder: Path

    @property
    def title(self) -> str:
        return "toy"

    @property
    def world_size(self) -> int:
        return self.ranks

    @property
    def max_jobs(self) -> int:
        return 4

    def check(self) -> None:
        """Nothing is needed."""

    def run(self, stage: StageRef, report: Report) -> int:
        return run_as_job(self, stage.run_dir, partial(submit_stage, self, stage), report)

    def describe(self, stage: StageRef) -> str:
        return f"would queue {self.ranks} ranks in {stage.run_dir.path}"

    def submit(self, stage: StageRef, after: Sequence[str] = ()) -> str:
        return Queue(self.folder).add(
            ranks_command(stage, self.ranks), str(stage.run_dir.path.resolve()), after
        )

    def jobs(self, ids: Sequence[str]) -> dict[str, JobState]:
        known = Queue(self.folder).read()
        return {job: known[job].state(job) for job in ids if job in known}

    def find(self, run_dir: RunDir) -> list[str]:
        known, owner = Queue(self.folder).read(), str(run_dir.path.resolve())
        return [job for job, entry in known.items() if entry.owner == owner and entry.phase != "ended"]

    def cancel(self, job: str, now: bool) -> None:
        Queue(self.folder).ask(job, "kill" if now else "cancel")

    def commands(self, jobs: Sequence[str]) -> Mapping[str, str]:
        return {"state": f"ls {self.folder}"}
