"""A graph of stages and the tables at its end.

In a file, one entry may stand for many (`EntryGroup`); loading writes all of them out, so that the
settings here hold every stage, shard set, table and row by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator, model_validator

from swamp_dist.bounds import Figure, Processes, Tries
from swamp_dist.config.names import FolderName
from swamp_dist.settings import OVERRIDES, Settings


class EntryGroup(Settings):
    """Keys that let a stage, shard set, table or table row of a pipeline file stand for many.

    `values:` beside `stages:` names the values, each with fields of its own or none:
    {set: {youcook2: {title: YouCook2}, lsmdc: {title: LSMDC}}, method: [contrastive, swamp]}.
    """

    for_each: tuple[str, ...] = Field(min_length=1)
    """Names in `values`; the entry is written out for every combination, the last name varying fastest.
    `{set}` is the value, `{set.title}` its field; a list item that is only a field with a list gives all
    its items."""
    without: tuple[dict[str, str | int | float | tuple[str | int | float, ...]], ...] = ()
    """Combinations that are left out: {set: lsmdc, method: [swamp]} leaves out those that match in every
    name."""


class PipelineStage(Settings):
    """A stage of a pipeline: a job file, what it changes, and what must be done before it."""

    job: Path
    """Job file, relative to the file that says it."""
    after: tuple[str, ...] = ()
    """Stages that must be done first. `{runs.NAME}` in `overrides` is the run folder of stage NAME."""
    overrides: Annotated[tuple[str, ...], OVERRIDES] = ()
    """key=value settings for the job. `{seed}` and other matrix names are replaced."""


class PipelineShards(Settings):
    """Shards a pipeline needs; built when absent."""

    recipe: Path
    """Shard recipe, relative to the file that says it."""
    out: str
    """Folder of the shard set, relative to the working folder; may contain matrix names such as `{seed}`."""
    overrides: Annotated[tuple[str, ...], OVERRIDES] = ()
    """key=value settings for the recipe."""


class TableRow(Settings):
    """One row of the closing table."""

    label: str
    """What the row is called."""
    stage: str | None = None
    """Stage whose metrics the row shows (over all matrix cells); null for published figures."""
    evaluation: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Which entry of `evaluate` of the stage is shown, instead of the table's: normalised scores, for
    example. It is compared by the same entry of the other stage; of its own stage with the table's."""
    published: dict[str, Figure] = {}
    """Figures to print as they were published, by metric name."""
    figures: tuple[Figure | None, ...] = ()
    """The same as a list in the order of the table's `metrics`, null where none was published; becomes
    `published`."""
    chance: bool = False
    """Print what random ranking would reach on the test split of the first stage."""
    against: str | None = None
    """Stage that this row is compared with, instead of the table's `baseline`."""
    note: str = ""
    """What a reader must know of the row, such as its protocol: a mark beside the label, the words below."""

    def with_published(self, metrics: Sequence[str]) -> TableRow:
        """The row with its `figures` as `published`.

        Raises:
            ValueError: there are not as many figures as metrics, all are null, or both fields are given.
        """
        if self.published or len(self.figures) != len(metrics):
            raise ValueError(
                f"row {self.label!r}: expected either `published`, or `figures` with one for each of the "
                f"{len(metrics)} metrics; found {len(self.published)} and {len(self.figures)}"
            )
        given = zip(metrics, self.figures, strict=True)
        named = {metric: figure for metric, figure in given if figure is not None}
        if not named:
            raise ValueError(f"row {self.label!r}: every one of its `figures` is null; leave the row out")
        return self.model_copy(update={"published": named, "figures": ()})


class TableSettings(Settings):
    """One of the tables printed at the end of a pipeline and by `swamp table`."""

    title: str = ""
    """Heading."""
    metrics: tuple[str, ...]
    """Metric names, for example pair/a_to_b/r_at_1."""
    evaluation: Annotated[int, Field(ge=-1000, le=1000)] = 0
    """Which entry of `evaluate` of the stages is shown."""
    rows: tuple[TableRow, ...]
    baseline: str | None = None
    """Stage that rows without `against` are compared with, seed by seed: paired differences with 95%
    intervals."""
    note: str = ""
    """What a reader must know of all rows: the protocol, for example."""

    @field_validator("rows")
    @classmethod
    def _name_figures(cls, rows: tuple[TableRow, ...], info: ValidationInfo) -> tuple[TableRow, ...]:
        """`figures` of a row become `published`, with the names of the metrics."""
        metrics: tuple[str, ...] = info.data.get("metrics", ())  # absent where they are wrong themselves
        return tuple(row.with_published(metrics) if row.figures and metrics else row for row in rows)


class PipelineSettings(Settings):
    """A graph of stages, repeated over a matrix of values, and the table at its end."""

    name: FolderName
    """Name of the pipeline; the default run folder is runs/NAME."""
    matrix: dict[FolderName, tuple[int | float | str, ...]] = {}
    """Values the whole graph is repeated for, for example {seed: [0, 1, 2]}; overrides see `{seed}`."""
    shards: tuple[PipelineShards, ...] = ()
    stages: dict[FolderName, PipelineStage]
    """Stages by name. One with `for_each` stands for a stage per value (as do shards, tables and rows)."""
    overrides: Annotated[tuple[str, ...], OVERRIDES] = ()
    """key=value settings for every stage, after its own: for example train.epochs=3 for a trial run."""
    ranks: Processes = 1
    """Processes per stage when it runs on this machine."""
    concurrency: Processes = 1
    """Stages that may run at the same time on this machine."""
    retries: Tries = 1
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
