"""A graph of stages and the table at its end."""

from __future__ import annotations

from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt, model_validator

from swamp_dist.config.settings import Settings


class PipelineStage(Settings):
    """A stage of a pipeline: a job file, what it changes, and what must be done before it."""

    job: Path
    """Job file, relative to the folder the command runs in."""
    after: tuple[str, ...] = ()
    """Stages that must be done first. `{runs.NAME}` in `overrides` is the run folder of stage NAME."""
    overrides: tuple[str, ...] = ()
    """key=value settings for the job. `{seed}` and other matrix names are replaced."""


class PipelineShards(Settings):
    """Shards a pipeline needs; built when absent."""

    recipe: Path
    """Shard recipe."""
    out: str
    """Folder of the shard set; may contain matrix names such as `{seed}`."""
    overrides: tuple[str, ...] = ()
    """key=value settings for the recipe."""


class TableRow(Settings):
    """One row of the closing table."""

    label: str
    """What the row is called."""
    stage: str | None = None
    """Stage whose metrics the row shows (over all matrix cells); null for published figures."""
    published: dict[str, float] = {}
    """Figures to print as they were published, by metric name."""
    chance: bool = False
    """Print what random ranking would reach on the test split of the first stage."""
    against: str | None = None
    """Stage that this row is compared with, instead of the table's `baseline`."""
    note: str = ""
    """What a reader must know of the row, such as its protocol: a mark beside the label, the words below."""


class TableSettings(Settings):
    """One of the tables printed at the end of a pipeline and by `swamp table`."""

    title: str = ""
    """Heading."""
    metrics: tuple[str, ...]
    """Metric names, for example pair/a_to_b/r_at_1."""
    evaluation: int = 0
    """Which entry of `evaluate` of the stages is shown."""
    rows: tuple[TableRow, ...]
    baseline: str | None = None
    """Stage that rows without `against` are compared with, seed by seed (paired differences, 95% intervals)."""
    note: str = ""
    """What a reader must know of all rows: the protocol, for example."""


class PipelineSettings(Settings):
    """A graph of stages, repeated over a matrix of values, and the table at its end."""

    name: str
    """Name of the pipeline; the default run folder is runs/NAME."""
    matrix: dict[str, tuple[int | float | str, ...]] = {}
    """Values the whole graph is repeated for, for example {seed: [0, 1, 2]}."""
    shards: tuple[PipelineShards, ...] = ()
    stages: dict[str, PipelineStage]
    """Stages by name."""
    overrides: tuple[str, ...] = ()
    """key=value settings for every stage, after its own: for example train.epochs=3 for a trial run."""
    ranks: PositiveInt = 1
    """Processes a stage uses when run on this machine."""
    concurrency: PositiveInt = 1
    """Stages that may run at the same time on this machine."""
    retries: NonNegativeInt = 1
    """How often a failed stage is started again; it continues from its last commit."""
    tables: tuple[TableSettings, ...] = ()
    """Closing tables, printed in this order."""

    @model_validator(mode="after")
    def _graph_is_closed(self) -> PipelineSettings:
        for name, stage in self.stages.items():
            unknown = [a for a in stage.after if a not in self.stages]
            if unknown:
                raise ValueError(
                    f"stage {name!r} comes after {unknown}, which are not stages: {sorted(self.stages)}"
                )
        rows = [row for table in self.tables for row in table.rows]
        named = {name for row in rows for name in (row.stage, row.against) if name is not None}
        missing = sorted(named - self.stages.keys())
        if missing:
            raise ValueError(f"table rows name {missing}, which are not stages: {sorted(self.stages)}")
        return self
