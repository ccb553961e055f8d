"""Plots of a sweep: one SVG file per setting, runs as dots and their means as a line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swamp_dist.pipelines.sweep import Curve, Value
from swamp_dist.printable import printable

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
    positions = _positions(curve.values)
    _draw(axes, curve, positions)
    if _is_wide(curve.values):
        axes.set_xscale("log")
    if positions != list(curve.values):
        labels = [printable(str(value), one_line=True) for value in curve.values]
        axes.set_xticks(positions, labels, parse_math=False)
    axes.set_xlabel(printable(curve.setting, one_line=True), parse_math=False)
    axes.set_ylabel(printable(metric, one_line=True), parse_math=False)
    path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '-', curve.setting)}.svg"
    figure.savefig(path, metadata={"Date": None})  # the same runs give the same file
    return path


def _draw(axes: Any, curve: Curve, positions: Sequence[float]) -> None:
    dots = [(x, y) for x, runs in zip(positions, curve.runs, strict=True) for y in runs]
    means = [(x, sum(runs) / len(runs)) for x, runs in zip(positions, curve.runs, strict=True) if runs]
    axes.plot(*zip(*means, strict=True), color="tab:blue", label="mean")
    axes.plot(*zip(*dots, strict=True), "o", color="tab:blue", alpha=0.5, label="runs")
    own = positions[curve.values.index(curve.job_value)] if curve.job_value in curve.values else None
    if own is not None:
        axes.axvline(own, color="grey", linestyle=":", label="the job's value")
    axes.legend(frameon=False)


def _positions(values: Sequence[Value]) -> list[float]:
    """x of each value: numbers at their value, anything else at 0, 1, 2."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return [float(v) for v in values]
    return [float(i) for i in range(len(values))]


def _is_wide(values: Sequence[Value]) -> bool:
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return len(numbers) == len(values) and min(numbers) > 0 and max(numbers) >= _WIDE * min(numbers)
