"""A Ray that runs already, or one of our own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from swamp_dist.bounds import Cores, Processes, Seconds, Tries
from swamp_dist.config.backends import SizedCluster


class RayCluster(SizedCluster):
    """A Ray: one that runs already, or one of our own on this machine for the time of the stage."""

    backend: Literal["ray"] = "ray"
    """Runs the ranks under Ray Train workers, starts them again from the newest commit when one fails, and
    waits."""
    address: str | None = None
    """Address of the Ray, for example head-node:6379 or auto; null = RAY_ADDRESS, else a Ray of our own
    here."""
    workers: Processes = 1
    """Ray Train workers; each starts one rank."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    """GPUs per worker: 1, or 0 to train on CPUs."""
    cpus_per_worker: Cores = 1
    """CPU cores per worker, the rank's loader processes included."""
    max_failures: Tries = 100
    """How often Ray may start the workers again over the whole stage, whatever their progress."""
    max_restarts: Tries = 3
    """How often the ranks may start again from the same committed step before the stage fails for good; a
    restart after progress is not counted."""
    peer_seconds: Seconds = 15
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
        """CPU cores per rank."""
        return self.cpus_per_worker

    @property
    def layout(self) -> str:
        """How the ranks lie over machines, for people."""
        return f"{self.workers} Ray Train workers, wherever Ray has room"
