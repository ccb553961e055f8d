"""Runs a stage on a backend, as `swamp submit` does: `python -m tests.backends.command NAME FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from swamp_dist.backends import rank_process
from swamp_dist.backends.protocols import Backend, StageRef
from swamp_dist.backends.ray.backend import RayBackend
from swamp_dist.backends.registry import open_backend
from swamp_dist.backends.slurm.backend import SlurmBackend
from swamp_dist.config import LocalCluster, RayCluster, SlurmCluster
from swamp_dist.runs.folder import RunDir
from tests.backends.toys import ChildBackend, QueueBackend

RANKS = 2
NAMES = ("local", "child", "queue", "slurm", "ray")


def backend_of(name: str, folder: Path) -> Backend:
    """A backend with two ranks; what it keeps lies in `folder`."""
    match name:
        case "local":
            return open_backend(LocalCluster(ranks=RANKS))
        case "child":
            return ChildBackend(RANKS)
        case "queue":
            return QueueBackend(RANKS, folder / "queue")
        case "slurm" | "real slurm":
            return SlurmBackend(SlurmCluster(nodes=RANKS, memory_gb=0.5, peer_seconds=2))
        case _:
            return RayBackend(RayCluster(workers=RANKS, peer_seconds=2))


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the stage in FOLDER/run with played ranks; an exit code."""
    rank_process.RANK_MODULE = "tests.backends.played_rank"
    folder = Path(sys.argv[2])
    stage = StageRef("played", RunDir(folder / "run"))
    return backend_of(sys.argv[1], folder).run(stage, say)


if __name__ == "__main__":
    sys.exit(main())
