"""A sweep file -> the pipeline that runs it."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swamp_dist.config import (
    PipelineSettings,
    PipelineStage,
    StageSettings,
    SweepSettings,
    TableRow,
    TableSettings,
)
from swamp_dist.errors import UserError
from swamp_dist.evaluate.metric_names import check_metric_name
from swamp_dist.evaluate.results import promised_metrics
from swamp_dist.file_names import name_problem
from swamp_dist.loading import load
from swamp_dist.origins import said_where
from swamp_dist.pipelines.matrix import MOST_CELLS

Value = int | float | str | bool | None
"""None: the job holds null there."""
_RUN = re.compile(r"\{runs\.([\w.+-]+)\}")
"""The run of another point, with the same seed."""
_UNSAFE = re.compile(r"[^\w.+-]")
_AS_IS = "as-the-job"
_TEST = "test"
"""Never chosen on, whether the job evaluates on it or a later one does."""


@dataclass(frozen=True)
class Point:
    """One combination of values; `stage` is its name in the pipeline and its folder below each seed's."""

    stage: str
    values: Mapping[str, Value]
    """Every varied setting, those that the job keeps included."""
    overrides: tuple[str, ...]
    """What differs from the job."""


def points(settings: SweepSettings) -> list[Point]:
    """Every combination that is run, the job's own values first.

    Raises:
        UserError: the job cannot be loaded or has no such setting.
    """
    own = _job_values(settings)
    wanted = [own]
    count = math.prod(map(len, settings.vary.values()))
    if settings.design == "grid" and count > MOST_CELLS:
        raise UserError(f"sweep {settings.name}: {count:,} points; expected at most {MOST_CELLS:,}")
    if settings.design == "grid":
        grid = itertools.product(*settings.vary.values())
        wanted += [dict(zip(settings.vary, combination, strict=True)) for combination in grid]
    else:
        wanted += [{**own, key: value} for key, values in settings.vary.items() for value in values]
    # Spelled as the job spells them: 20 and 20.0 are one point.
    spelled = [{k: own[k] if v == own[k] else v for k, v in values.items()} for values in wanted]
    distinct = {json.dumps(values): values for values in spelled}
    return [_point(values, own) for values in distinct.values()]


def sweep_pipeline(settings: SweepSettings) -> PipelineSettings:
    """The pipeline of a sweep: a stage per point, a cell per seed, one table.

    Raises:
        UserError: the job cannot be loaded or has no such setting; a metric that no run will have; values
            would be chosen on a split that the job reports on; two points would share a folder.
    """
    _check(settings)
    chosen = points(settings)
    names = [point.stage for point in chosen]
    for problem in filter(None, map(name_problem, names)):
        raise UserError(f"sweep {settings.name}: a run's folder is called by its values: {problem}")
    if len(set(names)) < len(names):
        raise UserError(f"sweep {settings.name}: two points would share a folder: {', '.join(names)}")
    judged = "evaluate=" + json.dumps([settings.evaluate.model_dump(mode="json")])
    # Copied in, not validated anew: the overrides remember which file says them.
    stages = {
        point.stage: PipelineStage(job=settings.job, after=_after(settings, point, names)).model_copy(
            update={"overrides": (*settings.overrides, *point.overrides, judged, "seed={seed}")}
        )
        for point in chosen
    }
    rows = tuple(TableRow(label=point.stage, stage=point.stage) for point in chosen)
    table = TableSettings(
        title=f"{settings.name}: {settings.job}", metrics=settings.metrics, rows=rows, baseline=_AS_IS
    )
    return PipelineSettings(
        name=settings.name,
        matrix={"seed": settings.seeds},
        shards=settings.shards,
        stages=stages,
        ranks=settings.ranks,
        concurrency=settings.concurrency,
        retries=settings.retries,
        tables=(table,),
    )


def _after(settings: SweepSettings, point: Point, names: Sequence[str]) -> tuple[str, ...]:
    """The points whose runs this one names."""
    named = dict.fromkeys(name for text in point.overrides for name in _RUN.findall(text))
    for name in named:
        if name not in names or name == point.stage:
            raise UserError(
                f"sweep {settings.name}: {{runs.{name}}} is no other run of it; they are "
                f"{', '.join(each for each in names if each != point.stage)}."
            )
    return tuple(named)


def value_label(value: Value) -> str:
    """A value as names of folders and axes have it: of a run of the sweep its name, null for none."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return _RUN.sub(r"\1", str(value))


def _point(values: Mapping[str, Value], own: Mapping[str, Value]) -> Point:
    changed = {key: value for key, value in values.items() if value != own[key]}
    shown = {key: _RUN.sub(r"\1", str(value)) for key, value in changed.items()}
    name = "_".join(f"{key.split('.')[-1]}-{_UNSAFE.sub('-', text)}" for key, text in shown.items())
    overrides = tuple(said_where(f"{key}={json.dumps(value)}", key) for key, value in changed.items())
    return Point(name or _AS_IS, values, overrides)


def _job_values(settings: SweepSettings) -> dict[str, Value]:
    """The varied settings as the job and the sweep's overrides have them; loading refuses unknown keys."""
    first = [said_where(f"{key}={json.dumps(values[0])}", key) for key, values in settings.vary.items()]
    plain = _plain_overrides(settings)
    load(settings.job, StageSettings, [*plain, *first])
    tree = load(settings.job, StageSettings, plain).model_dump(mode="json")
    return {key: _leaf(tree, key) for key in settings.vary}


def _plain_overrides(settings: SweepSettings) -> list[str]:
    seed = str(settings.seeds[0])
    return [said_where(text.replace("{seed}", seed), text) for text in settings.overrides]


def _leaf(tree: Mapping[str, object], key: str) -> Value:
    node: object = tree
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    if not isinstance(node, int | float | str | bool | None):
        raise UserError(
            f"vary.{key}: the job holds {node!r} there; a sweep varies settings that have one plain value in "
            "the job file. Give the job a value for it."
        )
    return node


def _check(settings: SweepSettings) -> None:
    promised = promised_metrics(settings.evaluate)
    for metric in settings.metrics:
        check_metric_name(metric, promised, f"sweep {settings.name}")
    jobs = (load(settings.job, StageSettings), load(settings.job, StageSettings, _plain_overrides(settings)))
    reported = {_TEST}.union(*(job.tested_splits for job in jobs))
    if settings.chooses and not reported.isdisjoint(settings.evaluate.splits):
        raise UserError(
            f"sweep {settings.name}: evaluate.split = {settings.evaluate.split!r} is a split that figures "
            f"are reported on (in {settings.job}, or by its name). Choosing values by it would tune on the "
            "test data.\nFix: evaluate on a validation split, or set chooses: false for an ablation by which "
            "nothing is chosen."
        )
