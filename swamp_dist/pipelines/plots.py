"""Plots of a sweep: one SVG file per setting with a panel per metric."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from swamp_dist.pipelines.sweep_curves import Curve, ValueAxis, value_axis
from swamp_dist.printable import printable

_PANEL = (4.6, 3.6)
"""Inches."""


def plot_curves(curves: Sequence[Curve], name: str, folder: Path) -> list[Path]:
    """Write `folder`/SETTING.svg for every setting that has a finished run; the files written.

    Args:
        curves: those of a setting one after the other, one per metric.
        name: of the sweep, for the title.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = [list(of_one) for _, of_one in itertools.groupby(curves, key=lambda curve: curve.setting)]
    return [_plot(panels, name, folder) for panels in settings if any(any(c.runs) for c in panels)]


def _plot(panels: Sequence[Curve], name: str, folder: Path) -> Path:
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    wide, high = _PANEL
    figure = Figure(figsize=(wide * len(panels), high + 0.5), layout="constrained")
    drawn = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, curve in zip(drawn, panels, strict=True):
        _draw_panel(axes, curve)
    first = panels[0]
    told = f"{name}: {first.setting} on {first.split}, {_seeds(panels)}"
    figure.suptitle(printable(told, one_line=True), fontsize=11, parse_math=False)
    legend = {label: handle for axes in drawn for handle, label in _legend(axes)}
    figure.legend(
        list(legend.values()), list(legend), loc="outside lower center", ncols=len(legend), frameon=False
    )
    path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '-', first.setting)}.svg"
    with rc_context({"svg.hashsalt": "swamp"}):  # the same runs give the same file
        figure.savefig(path, metadata={"Date": None})
    return path


def _seeds(panels: Sequence[Curve]) -> str:
    count = max(len(runs) for curve in panels for runs in curve.runs)
    if count == 1:
        return "one run per value"
    averaged = panels[0].averaged
    told = f"mean over {', '.join(averaged)} and seeds" if averaged else "mean and 95% t interval"
    return f"up to {count} runs per value, {told}"


def _legend(axes: Any) -> Iterator[tuple[Any, str]]:
    return zip(*axes.get_legend_handles_labels(), strict=True)


def _draw_panel(axes: Any, curve: Curve) -> None:
    axis = value_axis(curve.values)
    _draw_contrastive(axes, curve)
    _draw_runs(axes, curve, axis)
    if curve.job_value in curve.values:
        own = axis.positions[curve.values.index(curve.job_value)]
        axes.axvline(own, color="grey", linestyle=":", zorder=0, label="the job's value")
    labels = [printable(label, one_line=True) for label in axis.labels]
    axes.margins(x=0.08 if axis.is_number else 0.4)
    axes.set_xticks(axis.positions, labels, parse_math=False, rotation=_rotation(labels))
    scale = " (logarithmic)" if axis.is_log else ""
    axes.set_xlabel(printable(curve.setting, one_line=True) + scale, parse_math=False)
    axes.set_ylabel(printable(curve.metric, one_line=True), parse_math=False)
    axes.grid(axis="y", alpha=0.25)


def _rotation(labels: Sequence[str]) -> int:
    return 30 if sum(map(len, labels)) > 36 else 0


def _draw_contrastive(axes: Any, curve: Curve) -> None:
    line = curve.contrastive_summary
    if line is None:
        return
    axes.axhline(
        line.mean, color="tab:orange", linestyle="--", zorder=1, label="contrastive alone (lambda 0)"
    )
    if line.low is not None and line.high is not None:
        axes.axhspan(line.low, line.high, color="tab:orange", alpha=0.12, zorder=0, linewidth=0)


def _draw_runs(axes: Any, curve: Curve, axis: ValueAxis) -> None:
    found = [(x, each) for x, each in zip(axis.positions, curve.summaries, strict=True) if each is not None]
    places, means = [x for x, _ in found], [each.mean for _, each in found]
    style = "-" if axis.is_number else "D"
    axes.plot(places, means, style, color="tab:blue", label="mean", zorder=3)
    known = [(x, e.mean, e.mean - e.low) for x, e in found if e.low is not None]
    if known:
        at, middles, halves = zip(*known, strict=True)
        axes.errorbar(
            at, middles, yerr=halves, fmt="none", ecolor="tab:blue", capsize=4, label="95% interval"
        )
    dots = [(x, y) for x, runs in zip(axis.positions, curve.runs, strict=True) for y in runs]
    axes.plot(
        *zip(*dots, strict=True), "o", color="tab:blue", alpha=0.45, markersize=4, label="runs", zorder=4
    )
    best = curve.best
    if best is not None:
        top = [each.mean for x, each in found if x == axis.positions[best]]
        axes.plot(
            [axis.positions[best]], top, "*", color="tab:red", markersize=13, label="best mean", zorder=5
        )
