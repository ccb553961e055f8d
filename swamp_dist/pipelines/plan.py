"""A pipeline file -> every shard set and stage it stands for, all checked before anything starts. Pure."""

from __future__ import annotations

import graphlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swamp_dist.config import PipelineSettings, PipelineStage, ShardSettings, StageSettings, TableSettings
from swamp_dist.evaluate.results import check_metric_name, promised_metrics
from swamp_dist.evaluate.table import build_table
from swamp_dist.explaining import nearest
from swamp_dist.launch.embedding_dim import starting_points
from swamp_dist.launch.finished import check_finished
from swamp_dist.launch.rundir import RunDir
from swamp_dist.loading import load
from swamp_dist.records import UserError

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][\w.-]*)\}")
_UNSAFE = re.compile(r"[^\w.+-]")
_MOST_PROBLEMS = 10


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
class Plan:
    """The whole graph; stages stand after those they depend on."""

    run_dir: Path
    shards: tuple[PlannedShards, ...]
    stages: tuple[PlannedStage, ...]

    def run_dirs(self, name: str) -> list[Path]:
        """Folders of one stage over the cells, in matrix order."""
        return [s.run_dir for s in self.stages if s.name == name]


def plan_pipeline(settings: PipelineSettings, run_dir: Path) -> Plan:
    """Expand the matrix, replace `{names}`, load and check every recipe and job.

    Raises:
        UserError: all problems of all stages in one message.
    """
    order = _order(settings)
    grid = cells(settings.matrix)
    problems: list[str] = []
    if len({name for name, _ in grid}) < len(grid):
        problems.append(f"matrix: two cells would share a folder: {', '.join(name for name, _ in grid)}")
    shards: list[PlannedShards] = []
    stages: list[PlannedStage] = []
    for cell, values in grid:
        folder = run_dir / cell if cell else run_dir
        shards += _cell_shards(settings, values, problems)
        for name in order:
            stage = _cell_stage(settings, name, order, cell, folder, values, problems)
            stages += [stage] if stage else []
    plan = Plan(run_dir, tuple(_distinct(shards, problems)), tuple(stages))
    if not problems:
        problems += _missing_inputs(plan)
        problems += _finished_otherwise(plan)
        problems += [p for table in settings.tables for p in _table_problems(table, settings.stages, plan)]
    _raise(settings.name, problems)
    return plan


def cells(matrix: Mapping[str, Sequence[int | float | str]]) -> list[tuple[str, dict[str, str]]]:
    """Folder name and values of every cell: {seed: [0, 1]} -> seed-0, seed-1; an empty matrix is one
    cell without a name."""
    named = []
    for values in itertools.product(*matrix.values()):
        cell = dict(zip(matrix, map(str, values), strict=True))
        named.append(("_".join(f"{name}-{_UNSAFE.sub('-', v)}" for name, v in cell.items()), cell))
    return named


def substitute(text: str, values: Mapping[str, str]) -> str:
    """`text` with every `{name}` replaced; braces around anything else (YAML sections) stay.

    Raises:
        UserError: a name that has no value; lists those that have.
    """

    def replaced(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in values:
            return values[name]
        near = nearest(name, values)
        guess = f" Did you mean {{{near[0]}}}?" if near else ""
        raise UserError(
            f"{text!r}: {{{name}}} has no value.{guess} Names here: {', '.join(sorted(values)) or 'none'}"
        )

    return _PLACEHOLDER.sub(replaced, text)


def _order(settings: PipelineSettings) -> list[str]:
    try:
        return list(
            graphlib.TopologicalSorter({n: s.after for n, s in settings.stages.items()}).static_order()
        )
    except graphlib.CycleError as error:
        circle = " after ".join(error.args[1])
        raise UserError(f"pipeline {settings.name}: stages wait for each other: {circle}") from None


def _ancestors(stages: Mapping[str, PipelineStage], name: str) -> set[str]:
    direct = set(stages[name].after)
    return direct.union(*(_ancestors(stages, before) for before in direct))


def _cell_shards(
    settings: PipelineSettings, values: Mapping[str, str], problems: list[str]
) -> Iterator[PlannedShards]:
    for shards in settings.shards:
        try:
            overrides = [substitute(o, values) for o in shards.overrides]
            recipe = load(shards.recipe, ShardSettings, overrides)
            yield PlannedShards(shards.recipe, recipe, Path(substitute(shards.out, values)))
        except UserError as error:
            problems.append(f"shards {shards.out}: {error}")


def _cell_stage(
    settings: PipelineSettings,
    name: str,
    order: Sequence[str],
    cell: str,
    folder: Path,
    values: Mapping[str, str],
    problems: list[str],
) -> PlannedStage | None:
    stage = settings.stages[name]
    before = _ancestors(settings.stages, name)
    runs = {f"runs.{n}": str(folder / n) for n in order if n in before}
    try:
        overrides = [substitute(o, {**values, **runs}) for o in (*stage.overrides, *settings.overrides)]
        loaded = load(stage.job, StageSettings, overrides)
    except UserError as error:
        problems.append(f"stage {name}: {error}")
        return None
    prefix = f"{cell}/" if cell else ""
    after = tuple(prefix + a for a in stage.after)
    return PlannedStage(prefix + name, name, loaded, folder / name, after)


def _finished_otherwise(plan: Plan) -> Iterator[str]:
    for stage in plan.stages:
        try:
            check_finished(RunDir(stage.run_dir), stage.settings)
        except UserError as error:
            yield f"stage {stage.key}: {error}"


def _distinct(shards: Sequence[PlannedShards], problems: list[str]) -> list[PlannedShards]:
    """One entry a folder; two different recipes for one folder are a problem."""
    by_out: dict[Path, PlannedShards] = {}
    for each in shards:
        first = by_out.setdefault(each.out, each)
        if first.settings != each.settings:
            problems.append(
                f"shards {each.out}: two different recipes would be built here; "
                "put a matrix name such as {seed} into `out`"
            )
    return list(by_out.values())


def _missing_inputs(plan: Plan) -> list[str]:
    """Shard sets and weights that neither exist nor will be made by an earlier stage."""
    built = {s.out.resolve() for s in plan.shards}
    by_key = {s.key: s for s in plan.stages}
    problems = []
    for stage in plan.stages:
        data = stage.settings.data
        if data.shards.resolve() not in built and not (data.shards / "manifest.json").is_file():
            recipe = data.recipe or "RECIPE"
            problems.append(
                f"stage {stage.name}: no shards in {data.shards} and the pipeline does not build them.\n"
                f"    Add them to `shards:`, or build them: swamp shards build {recipe} --out {data.shards}"
            )
        made = {p.resolve() for p in run_dirs_before(stage, by_key)}
        for key, path in starting_points(stage.settings):
            exists = path.exists() or path.resolve() in made or path.resolve().parent in made
            if not exists:
                problems.append(
                    f"stage {stage.name}: {key} = {path} does not exist and no stage before it makes it.\n"
                    f"    Use {{runs.STAGE}} with that stage in `after`."
                )
    return problems


def run_dirs_before(stage: PlannedStage, by_key: Mapping[str, PlannedStage]) -> Iterator[Path]:
    """Run folders of all stages that a stage comes after, at first or second hand."""
    for key in stage.after:
        yield by_key[key].run_dir
        yield from run_dirs_before(by_key[key], by_key)


def _table_problems(table: TableSettings, stages: Iterable[str], plan: Plan) -> list[str]:
    """Metrics of a closing table that a row's stage will not have: better said now than after hours."""
    wanted = {name for r in table.rows for name in (r.stage, r.against)} | {table.baseline}
    problems = []
    try:
        build_table(table, {name: [None for _ in plan.run_dirs(name)] for name in stages})
    except UserError as error:
        problems.append(str(error))
    for stage in [s for s in plan.stages if s.name in wanted]:
        evaluations = stage.settings.evaluate
        if table.evaluation >= len(evaluations):
            problems.append(
                f"table: evaluation = {table.evaluation}, but stage {stage.name} has {len(evaluations)} "
                "entries in `evaluate` (counted from 0)"
            )
            continue
        known = promised_metrics(evaluations[table.evaluation])
        for metric in table.metrics:
            try:
                check_metric_name(metric, known, f"stage {stage.name}")
            except UserError as error:
                problems.append(f"table: {error}")
    return problems


def _raise(name: str, problems: Sequence[str]) -> None:
    distinct = list(dict.fromkeys(problems))
    if not distinct:
        return
    shown = [f"- {p}" for p in distinct[:_MOST_PROBLEMS]]
    if len(distinct) > _MOST_PROBLEMS:
        shown.append(f"... and {len(distinct) - _MOST_PROBLEMS} more")
    raise UserError(f"pipeline {name} cannot start:\n" + "\n".join(shown))
