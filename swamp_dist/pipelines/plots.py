"""Plots of a sweep: one SVG file a setting, runs as dots and their means as a line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swamp_dist.launch.sweep import Curve, Value

_WIDE = 20
"""Positive values whose largest is this many times the smallest stand on a logarithmic axis."""


def plot_curves(curves: Sequence[Curve], metric: str, folder: Path) -> list[Path]:
    """Write `folder`/SETTING.svg for every curve that has a finished run; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_plot(curve, metric, folder) for curve in curves if any(curve.runs)]


def _plot(curve: Curve, metric: str, folder: Path) -> Path:
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    places = _places(curve.values)
    _draw(axes, curve, places)
    if _is_wide(curve.values):
        axes.set_xscale("log")
    if places != list(curve.values):
        axes.set_xticks(places, [str(value) for value in curve.values])
    axes.set(xlabel=curve.setting, ylabel=metric)
    path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '-', curve.setting)}.svg"
    figure.savefig(path, metadata={"Date": None})  # the same runs give the same file
    return path


def _draw(axes: Any, curve: Curve, places: Sequence[float]) -> None:
    dots = [(x, y) for x, runs in zip(places, curve.runs, strict=True) for y in runs]
    means = [(x, sum(runs) / len(runs)) for x, runs in zip(places, curve.runs, strict=True) if runs]
    axes.plot(*zip(*means, strict=True), color="tab:blue", label="mean")
    axes.plot(*zip(*dots, strict=True), "o", color="tab:blue", alpha=0.5, label="runs")
    own = places[curve.values.index(curve.job_value)] if curve.job_value in curve.values else None
    if own is not None:
        axes.axvline(own, color="grey", linestyle=":", label="the job's value")
    axes.legend(frameon=False)


def _places(values: Sequence[Value]) -> list[float]:
    """Where values stand: numbers where they are, anything else in a row."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return [float(v) for v in values]
    return [float(i) for i in range(len(values))]


def _is_wide(values: Sequence[Value]) -> bool:
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return len(numbers) == len(values) and min(numbers) > 0 and max(numbers) >= _WIDE * min(numbers)
