"""The figures that a run has logged, step by step, thinned to what a drawing shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from swamp_dist.runs.events import each_row, number

Points = Sequence[tuple[float, float]]
"""(step, value), by step."""


def read_tags(metrics: Path) -> dict[str, list[tuple[float, float]]]:
    """Every tag of a run's metrics.jsonl that has a finite value; empty where there is no such file."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in each_row(metrics):
        step = number(row, "step")
        for tag in row:
            value = number(row, tag)
            if tag != "step" and step is not None and value is not None:
                found.setdefault(tag, []).append((step, value))
    return found


def mean_of(tags: Mapping[str, Points], names: Sequence[str]) -> list[tuple[float, float]]:
    """The mean of several tags at the steps that all of them have."""
    columns = [dict(tags.get(name, ())) for name in names]
    steps = [step for step in columns[0] if all(step in column for column in columns)]
    return [(step, sum(column[step] for column in columns) / len(columns)) for step in steps]


def thinned(points: Points, most: int) -> list[tuple[float, float]]:
    """At most about `most` of the points: first, last, and of every stretch between the lowest and highest,
    so that a spike stays one."""
    if len(points) <= most:
        return list(points)
    stretches = max(1, (most - 2) // 2)
    inner, kept = range(1, len(points) - 1), {0, len(points) - 1}
    for i in range(stretches):
        part = inner[i * len(inner) // stretches : (i + 1) * len(inner) // stretches]
        if part:
            kept |= {min(part, key=lambda k: points[k][1]), max(part, key=lambda k: points[k][1])}
    return [points[k] for k in sorted(kept)]
