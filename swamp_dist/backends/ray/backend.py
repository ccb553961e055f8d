"""A Ray as a backend: ranks under Ray Train workers, which start again from the newest checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from swamp_dist.backends.protocols import Backend, Report, StageRef
from swamp_dist.backends.ray.resources import wanted_address
from swamp_dist.config import RayCluster


@final
@dataclass(frozen=True)
class RayBackend(Backend):
    """A Ray that runs already, or one of our own."""

    cluster: RayCluster

    @property
    def world_size(self) -> int:
        """Ranks of a stage."""
        return self.cluster.world_size

    def check(self) -> None:
        """Whether a Ray answers is found when the stage is run: one of our own is there only then."""

    def run(self, stage: StageRef, report: Report) -> int:
        """Run a stage on the workers until it has ended; an `ExitCode`."""
        from swamp_dist.backends.ray.ray_train import run_on_ray

        return run_on_ray(stage.run_dir.stage_yaml, stage.run_dir.path, self.cluster, report=report)

    def describe(self, stage: StageRef) -> str:
        """Which Ray it would be."""
        address = wanted_address(self.cluster)
        ours = "one of our own on this machine, for the time of the stage"
        return f"Ray:         {f'the one at {address}' if address else ours}\nnothing was started (--dry-run)"
