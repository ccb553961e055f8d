"""Jobs whose ranks are texts of Python: `python -m tests.cluster.played FOLDER` submits the one in FOLDER."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swamp_dist.backends import rank_process
from swamp_dist.backends.jobs import submit_stage
from swamp_dist.backends.protocols import StageRef
from swamp_dist.backends.slurm.backend import SlurmBackend
from swamp_dist.config import SlurmCluster
from swamp_dist.loading import load
from swamp_dist.runs.folder import RunDir
from tests.cluster.slurm import Job
from tests.end_to_end.command import ROOT, environment

CLUSTER = {"nodes": 2, "memory_gb": 1, "time_limit": 30, "signal_seconds": 60, "peer_seconds": 2}
"""Two ranks, one per node."""


@dataclass(frozen=True)
class Played:
    """A stage of played ranks, ready to be submitted."""

    folder: RunDir
    cluster: SlurmCluster

    @property
    def stage(self) -> StageRef:
        """The stage as a backend takes it."""
        return StageRef("played", self.folder)

    def submit(self) -> Job:
        """Submit it by this process."""
        before, rank_process.RANK_MODULE = rank_process.RANK_MODULE, "tests.cluster.played_rank"
        try:
            return Job(submit_stage(SlurmBackend(self.cluster), self.stage), self.folder.path)
        finally:
            rank_process.RANK_MODULE = before

    def submit_by(self, *command: str, **variables: str) -> Job:
        """Submit it by a process of its own, which another command may start."""
        done = subprocess.run(
            [*command, sys.executable, "-m", "tests.cluster.played", str(self.folder.path)],
            cwd=ROOT,
            env=environment() | variables,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return Job(done.stdout.split()[-1], self.folder.path)

    def variables(self, rank: int) -> dict[str, str]:
        """What a rank has seen."""
        found: dict[str, str] = json.loads((self.folder.path / f"variables-{rank}.json").read_text())
        return found


def played(path: Path, text: str = "", settings: Mapping[str, Any] | None = None) -> Played:
    """A stage in a new run folder, whose ranks run `text`."""
    folder, cluster = RunDir(path), SlurmCluster(**CLUSTER | dict(settings or {}))
    folder.create()
    folder.stage_yaml.write_text("name: played\n")
    folder.write_cluster(cluster)
    (path / "rank.py").write_text(text)
    return Played(folder, cluster)


def main() -> None:
    """Submit the stage of a folder and print its job."""
    folder = RunDir(Path(sys.argv[1]))
    job = Played(folder, load(folder.cluster_yaml, SlurmCluster)).submit()
    sys.stdout.write(f"{job.number}\n")


if __name__ == "__main__":
    main()
