"""What the runs of a sweep have reached, by setting and metric, as values; plots and reports draw them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swamp_dist.config import SweepSettings
from swamp_dist.errors import UserError
from swamp_dist.evaluate.intervals import Summary, summarize
from swamp_dist.evaluate.results import better, metric_names, metric_value, read_result, splits_text
from swamp_dist.file_names import RESULT_FILE
from swamp_dist.pipelines.matrix import cells
from swamp_dist.pipelines.sweep import Point, Value, points, value_label
from swamp_dist.records import EvaluationResult, StageResult

LAMBDA = "objective.swamp.weight"
"""At 0 a run is the contrastive one."""
_WIDE = 20
"""Positive values whose largest is this many times the smallest stand on a logarithmic axis."""


@dataclass(frozen=True)
class Curve:
    """One setting against one metric."""

    setting: str
    metric: str
    split: str
    """What the runs were evaluated on; empty where none has finished."""
    values: tuple[Value, ...]
    runs: tuple[tuple[float, ...], ...]
    """Metric of all finished runs with each value."""
    job_value: Value
    contrastive: tuple[float, ...] = ()
    """The metric of the finished runs with lambda = 0, where the sweep has them beside others; empty in the
    curve of lambda itself, which shows them as one of its values."""
    averaged: tuple[str, ...] = ()
    """Other settings of a grid, over all values of which the runs of a value go: their spread is no spread
    over seeds."""

    @property
    def summaries(self) -> tuple[Summary | None, ...]:
        """Mean and interval over seeds of each value; None without a finished run, and no interval where runs
        of other settings are averaged."""
        return tuple(self._summary(runs) if runs else None for runs in self.runs)

    @property
    def contrastive_summary(self) -> Summary | None:
        """Mean and interval of `contrastive`, as of a value."""
        return self._summary(self.contrastive) if self.contrastive else None

    def _summary(self, runs: Sequence[float]) -> Summary:
        found = summarize(runs)
        return replace(found, low=None, high=None) if self.averaged else found

    @property
    def best(self) -> int | None:
        """Place of the value with the best mean, of equal ones the first; None without a finished run."""
        found: int | None = None
        means = [None if each is None else each.mean for each in self.summaries]
        for place, mean in enumerate(means):
            before = None if found is None else means[found]
            if mean is not None and (before is None or better(self.metric, mean, before)):
                found = place
        return found


@dataclass(frozen=True)
class ValueAxis:
    """Where the values of a setting stand from left to right."""

    positions: tuple[float, ...]
    labels: tuple[str, ...]
    is_log: bool
    """Positions are logarithms; a zero stands one step left of the smallest value."""
    is_number: bool = True
    """Whether a line between values means anything."""


def value_axis(values: Sequence[Value]) -> ValueAxis:
    """Numbers stand at their value, or by their logarithm where they are spread wide; others in order."""
    labels = tuple(value_label(value) for value in values)
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        return ValueAxis(tuple(float(place) for place in range(len(values))), labels, False, False)
    positive = [number for number in numbers if number > 0]
    if min(numbers) < 0 or not positive or max(positive) < _WIDE * min(positive):
        return ValueAxis(tuple(numbers), labels, False)
    low, high = math.log10(min(positive)), math.log10(max(positive))
    zero = low - (high - low) / (len(positive) - 1)
    return ValueAxis(tuple(math.log10(n) if n else zero for n in numbers), labels, True)


def curves(settings: SweepSettings, run_dir: Path) -> list[Curve]:
    """Every metric of the finished runs in `run_dir`, setting by setting.

    Raises:
        UserError: the job cannot be loaded.
    """
    chosen = points(settings)
    folders = [run_dir / cell for cell, _ in cells({"seed": settings.seeds})]
    done = {
        point.stage: [
            result.evaluations[0]
            for folder in folders
            if (result := _result(folder / point.stage)) is not None and result.evaluations
        ]
        for point in chosen
    }
    split = next((splits_text(each) for found in done.values() for each in found), "")
    return [
        _curve(settings, (key, metric, split), chosen, _figures(done, metric))
        for key in settings.vary
        for metric in settings.metrics
    ]


def _result(folder: Path) -> StageResult | None:
    """None where there is none, or none that can be read: the table of the sweep names that one."""
    try:
        return read_result(folder) if (folder / RESULT_FILE).exists() else None
    except UserError:
        return None


def _figures(done: Mapping[str, Sequence[EvaluationResult]], metric: str) -> dict[str, list[float]]:
    return {
        stage: [metric_value(each, metric) for each in found if metric in metric_names(each.metrics)]
        for stage, found in done.items()
    }


def _curve(
    settings: SweepSettings,
    named: tuple[str, str, str],
    chosen: Sequence[Point],
    found: Mapping[str, Sequence[float]],
) -> Curve:
    """In a grid a value's runs are those of all combinations that have it.

    Args:
        named: setting, metric, split.
    """
    (key, metric, split), own, is_grid = named, chosen[0].values, settings.design == "grid"
    rest = [k for k in own if k != key]
    compared = [p for p in chosen if is_grid or all(p.values[k] == own[k] for k in rest)]
    values = sorted({p.values[key] for p in compared}, key=_sort_key)
    runs = tuple(tuple(x for p in compared if p.values[key] == v for x in found[p.stage]) for v in values)
    line: tuple[float, ...] = ()
    if key != LAMBDA and own.get(LAMBDA, 0) != 0:
        line = tuple(x for p in chosen if p.values[LAMBDA] == 0 for x in found[p.stage])
    averaged = tuple(k for k in rest if is_grid and len({p.values[k] for p in compared}) > 1)
    return Curve(key, metric, split, tuple(values), runs, own[key], line, averaged)


def _sort_key(value: Value) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return (
        not number,
        float(value) if isinstance(value, int | float) else 0.0,
        "" if value is None else str(value),
    )
