"""A pipeline file -> every shard set and stage it stands for, all checked before anything starts. Pure."""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swamp_dist.config import PipelineSettings, PipelineStage, ShardSettings, StageSettings, TableSettings
from swamp_dist.config.own_tars import import_hint
from swamp_dist.errors import UserError
from swamp_dist.evaluate.metric_names import check_metric_name
from swamp_dist.evaluate.results import promised_metrics
from swamp_dist.evaluate.table import build_table, named_evaluations
from swamp_dist.file_names import MANIFEST_FILE, checkpoint_of
from swamp_dist.loading import load
from swamp_dist.origins import said_where
from swamp_dist.pipelines.matrix import cells, substitute
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.graph import GraphNode
from swamp_dist.runs.stage_file import load_stage
from swamp_dist.stage.open import check_finished
from swamp_dist.train.weights_header import starting_points

_MOST_PROBLEMS = 10
"""Problems in one message; more of them would push the first off the screen."""


@dataclass(frozen=True)
class PlannedShards:
    """One shard set a pipeline needs."""

    recipe: Path
    settings: ShardSettings
    out: Path


@dataclass(frozen=True)
class PlannedStage:
    """One stage in one cell of the matrix."""

    key: str
    """`CELL/STAGE`, or `STAGE` where the matrix is empty; also its folder below the pipeline's."""
    name: str
    settings: StageSettings
    run_dir: Path
    after: tuple[str, ...]
    """Keys of the stages that must be done first."""


@dataclass(frozen=True)
class PipelinePlan:
    """The whole graph; stages stand after those they depend on."""

    run_dir: Path
    shards: tuple[PlannedShards, ...]
    stages: tuple[PlannedStage, ...]

    @property
    def nodes(self) -> list[GraphNode]:
        """The graph as those who watch it read it."""
        return [GraphNode(stage.key, stage.after) for stage in self.stages]

    def run_dirs(self, name: str) -> list[Path]:
        """Folders of one stage over the cells, in matrix order."""
        return [s.run_dir for s in self.stages if s.name == name]


@dataclass(frozen=True)
class _Cell:
    """One combination of the matrix values."""

    name: str
    """Folder of its runs below the pipeline's; empty where the matrix is."""
    folder: Path
    values: Mapping[str, str]

    def key(self, stage: str) -> str:
        return f"{self.name}/{stage}" if self.name else stage


def plan_pipeline(settings: PipelineSettings, run_dir: Path) -> PipelinePlan:
    """Repeat the graph for every cell, replace `{names}`, load and check every recipe and job.

    Raises:
        UserError: all problems of all stages in one message.
    """
    order = _order(settings)
    grid = [_Cell(name, run_dir / name, values) for name, values in cells(settings.matrix)]
    problems: list[str] = []
    if len({cell.name for cell in grid}) < len(grid):
        problems.append(f"matrix: two cells would share a folder: {', '.join(cell.name for cell in grid)}")

    # Load what each cell needs, with the cell's values in place of their names.
    shards: list[PlannedShards] = []
    stages: list[PlannedStage] = []
    for cell in grid:
        shards += _cell_shards(settings, cell, problems)
        stages += _cell_stages(settings, order, cell, problems)
    plan = PipelinePlan(run_dir, tuple(_distinct(shards, problems)), tuple(stages))

    # Compare stages with the disk, with each other and with the tables; half a plan would look wrong here.
    if not problems:
        problems += _shared_folders(plan)
        problems += _missing_inputs(plan)
        problems += _finished_otherwise(plan)
        problems += [p for table in settings.tables for p in _table_problems(table, settings.stages, plan)]
    _raise_if_any(settings.name, problems)
    return plan


def _order(settings: PipelineSettings) -> list[str]:
    try:
        return list(
            graphlib.TopologicalSorter({n: s.after for n, s in settings.stages.items()}).static_order()
        )
    except graphlib.CycleError as error:
        circle = " after ".join(error.args[1])
        raise UserError(f"pipeline {settings.name}: stages wait for each other: {circle}") from None


def _ancestors(stages: Mapping[str, PipelineStage], name: str) -> set[str]:
    return set(_all_before(name, lambda stage: stages[stage].after))


def _all_before(name: str, before: Callable[[str], Sequence[str]]) -> list[str]:
    """Everything that `name` comes after, each once, however many ways lead there."""
    found: dict[str, None] = {}
    waiting = [*before(name)]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found[each] = None
            waiting += before(each)
    return list(found)


def _cell_shards(settings: PipelineSettings, cell: _Cell, problems: list[str]) -> Iterator[PlannedShards]:
    for shards in settings.shards:
        try:
            overrides = _fill_in(shards.overrides, cell.values)
            recipe = load(shards.recipe, ShardSettings, overrides)
            yield PlannedShards(shards.recipe, recipe, Path(substitute(shards.out, cell.values)))
        except UserError as error:
            problems.append(f"shards {shards.out}: {error}")


def _cell_stages(
    settings: PipelineSettings, order: Sequence[str], cell: _Cell, problems: list[str]
) -> Iterator[PlannedStage]:
    for name in order:
        stage = settings.stages[name]
        before = _ancestors(settings.stages, name)
        runs = {f"runs.{other}": str(cell.folder / other) for other in order if other in before}
        names = {**cell.values, **runs}
        try:
            overrides = _fill_in((*stage.overrides, *settings.overrides), names)
            loaded = load_stage(stage.job, overrides)
        except UserError as error:
            problems.append(f"stage {name}: {error}")
            continue
        after = tuple(cell.key(other) for other in stage.after)
        yield PlannedStage(cell.key(name), name, loaded, cell.folder / name, after)


def _fill_in(overrides: Iterable[str], names: Mapping[str, str]) -> list[str]:
    """Overrides with `{names}` replaced; they keep the file that says them, where their paths begin."""
    return [said_where(substitute(text, names), text) for text in overrides]


def _finished_otherwise(plan: PipelinePlan) -> Iterator[str]:
    for stage in plan.stages:
        try:
            check_finished(RunDir(stage.run_dir), stage.settings)
        except UserError as error:
            yield f"stage {stage.key}: {error}"


def _distinct(shards: Sequence[PlannedShards], problems: list[str]) -> list[PlannedShards]:
    """One entry per folder; two different recipes for one folder are a problem."""
    by_out: dict[Path, PlannedShards] = {}
    for each in shards:
        first = by_out.setdefault(each.out, each)
        if first.settings != each.settings:
            problems.append(
                f"shards {each.out}: two different recipes would be built here; "
                "put a matrix name such as {seed} into `out`"
            )
    return list(by_out.values())


def _shared_folders(plan: PipelinePlan) -> Iterator[str]:
    """Folders that a shard set and a run would both be written to, one inside the other included."""
    runs = {plan.run_dir.resolve(): "the pipeline"}
    runs |= {stage.run_dir.resolve(): f"stage {stage.key}" for stage in plan.stages}
    for shards in plan.shards:
        folder = shards.out.resolve()
        for run, what in runs.items():
            if run.is_relative_to(folder) or (what != "the pipeline" and folder.is_relative_to(run)):
                yield (
                    f"shards {shards.out}: {what} would be written there too, to {run}.\n"
                    "    Change `out`, or choose another --run-dir."
                )
                break


def _missing_inputs(plan: PipelinePlan) -> list[str]:
    """Shard sets and weights that neither exist nor will be made by an earlier stage."""
    built = {s.out.resolve() for s in plan.shards}
    by_key = {s.key: s for s in plan.stages}
    problems = []
    for stage in plan.stages:
        for folder, recipe in stage.settings.shard_sets.items():
            if folder.resolve() not in built and not (folder / MANIFEST_FILE).is_file():
                command = f"swamp shards build {recipe or 'RECIPE'} --out {folder}"
                fix = import_hint(folder) or f"Add them to `shards:`, or build them: {command}"
                problems.append(
                    f"stage {stage.name}: no shards in {folder} and the pipeline does not build them.\n"
                    f"    {fix}"
                )
        made = {p.resolve() for p in run_dirs_before(stage, by_key)}
        for key, path in starting_points(stage.settings):
            exists = path.exists() or path.resolve() in made or path.resolve().parent in made
            exists |= checkpoint_of(path) is not None
            if not exists:
                problems.append(
                    f"stage {stage.name}: {key} = {path} does not exist and no stage before it makes it.\n"
                    f"    Use {{runs.STAGE}} with that stage in `after`."
                )
    return problems


def run_dirs_before(stage: PlannedStage, by_key: Mapping[str, PlannedStage]) -> Iterator[Path]:
    """Run folders of all stages that a stage comes after, directly or through others."""
    for key in _all_before(stage.key, lambda key: by_key[key].after):
        yield by_key[key].run_dir


def _table_problems(table: TableSettings, stages: Iterable[str], plan: PipelinePlan) -> list[str]:
    """Metrics of a closing table that a row's stage will not have, found before hours of training."""
    wanted, problems = named_evaluations(table), []
    try:
        build_table(table, {name: [None for _ in plan.run_dirs(name)] for name in stages})
    except UserError as error:
        problems.append(str(error))
    asked = [(stage, number) for stage in plan.stages for name, number in wanted if name == stage.name]
    for stage, number in asked:
        evaluations = stage.settings.evaluate
        if number >= len(evaluations):
            problems.append(
                f"table: evaluation = {number}, but stage {stage.name} has {len(evaluations)} "
                "entries in `evaluate` (counted from 0)"
            )
            continue
        known = promised_metrics(evaluations[number])
        for metric in table.metrics:
            try:
                check_metric_name(metric, known, f"stage {stage.name}")
            except UserError as error:
                problems.append(f"table: {error}")
    return problems


def _raise_if_any(name: str, problems: Sequence[str]) -> None:
    distinct = list(dict.fromkeys(problems))
    if not distinct:
        return
    shown = [f"- {p}" for p in distinct[:_MOST_PROBLEMS]]
    if len(distinct) > _MOST_PROBLEMS:
        shown.append(f"... and {len(distinct) - _MOST_PROBLEMS} more")
    raise UserError(f"pipeline {name} cannot start:\n" + "\n".join(shown))
