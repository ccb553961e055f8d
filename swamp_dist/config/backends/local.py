"""The machine that the command runs on."""

from __future__ import annotations

from typing import Literal

from swamp_dist.bounds import Processes
from swamp_dist.config.backends import ClusterSettings


class LocalCluster(ClusterSettings):
    """The machine that the command runs on."""

    backend: Literal["local"] = "local"
    """Runs the ranks as processes of this machine and waits for them, as `swamp run` does."""
    ranks: Processes = 1
    """Processes; one per GPU."""

    @property
    def world_size(self) -> int:
        """Ranks of a stage."""
        return self.ranks
