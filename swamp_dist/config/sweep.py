"""One job over many values of its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import model_validator

from swamp_dist.bounds import Processes, Seed, Tries
from swamp_dist.config.names import FolderName
from swamp_dist.config.pipelines import PipelineShards
from swamp_dist.config.stage import EvaluateSettings
from swamp_dist.settings import OVERRIDES, Settings


class SweepSettings(Settings):
    """The same job with other values, every run evaluated alike; then a table, and a plot per setting."""

    name: FolderName
    """Name of the sweep; the default run folder is runs/NAME."""
    job: Path
    """Job file, relative to the file that says it."""
    vary: Annotated[dict[str, tuple[int | float | str | bool, ...]], OVERRIDES]
    """Values by dotted key of the job, for example {objective.swamp.prototypes: [200, 500, 1000]}.
    `{runs.weight-0}` is the run of another point, of the same seed, which is done first:
    {train.init_from: ["{runs.weight-0}"]} starts from the run whose objective.swamp.weight is 0."""
    design: Literal["one_at_a_time", "grid"] = "one_at_a_time"
    """`one_at_a_time` changes one setting and leaves the others as the job has them; `grid` runs all
    combinations."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Every point is run with each of these as `seed`; overrides see the value as `{seed}`."""
    evaluate: EvaluateSettings
    """What every run is judged by, in place of the job's `evaluate`."""
    chooses: bool = True
    """Whether values will be chosen by the outcome. True refuses a split that the job reports on; false is
    for ablations that only show what was chosen otherwise."""
    metrics: tuple[str, ...]
    """Columns of the table, and panels of every plot."""
    overrides: Annotated[tuple[str, ...], OVERRIDES] = ()
    """key=value settings for every run."""
    shards: tuple[PipelineShards, ...] = ()
    """Shards that are built when absent."""
    ranks: Processes = 1
    """Processes per run on this machine."""
    concurrency: Processes = 1
    """Runs at the same time."""
    retries: Tries = 1
    """How often a failed run is started again; it continues from its last commit."""

    @model_validator(mode="after")
    def _something_varies(self) -> SweepSettings:
        if not self.vary or not all(self.vary.values()):
            raise ValueError("vary names no values: give at least one setting with at least one value")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {list(self.seeds)}: expected at least one, each once")
        if not self.metrics:
            raise ValueError("metrics is empty: name at least one metric to plot")
        if "seed" in self.vary:
            raise ValueError("vary.seed: seeds have a section of their own, `seeds`")
        return self
