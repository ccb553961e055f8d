"""How `swamp compare` shows runs side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.console import Group as Stack

from swamp_dist.cli.results_table import fitted, to_json
from swamp_dist.console import block, cell
from swamp_dist.pipelines.compare import RunComparison, Side

_BLOCKS = "▁▂▃▄▅▆▇█"
_POINTS = 24


def comparison_view(found: RunComparison, console: Console) -> RenderableType:
    """Settings that differ, figures, curves; each line fits or goes on in the next one."""
    parts: list[RenderableType] = [cell("settings that differ", "bold")]
    parts += [block(line) for line in _settings(found.sides)]
    parts += ["", cell("figures", "bold")]
    parts.append(block("none was evaluated yet") if found.table is None else fitted(found.table, console))
    parts += [block(note) for note in found.notes]
    parts += ["", cell("curves (of the first run of each)", "bold")]
    parts += [block(line) for line in _curves(found.sides)]
    return Stack(*parts)


def comparison_json(found: RunComparison) -> str:
    """All of it for programs."""
    sides = [
        {
            "label": side.label,
            "runs": [str(run) for run in side.runs],
            "settings": dict(side.differing),
            "curves": {name: list(curve) for name, curve in side.curves.items()},
        }
        for side in found.sides
    ]
    table = None if found.table is None else json.loads(to_json([found.table]))[0]
    return json.dumps({"sides": sides, "table": table, "notes": list(found.notes)}, indent=1)


def _settings(sides: Sequence[Side]) -> Iterator[str]:
    keys = list(sides[0].differing)
    width = max(len(side.label) for side in sides)
    for key in keys:
        yield key
        yield from (f"  {side.label:<{width}}  {side.differing[key]}" for side in sides)
    if not keys:
        yield "none but seeds and names"


def _curves(sides: Sequence[Side]) -> Iterator[str]:
    width = max(len(side.label) for side in sides)
    for name in dict.fromkeys(name for side in sides for name in side.curves):
        drawn = [(side, side.curves[name]) for side in sides if name in side.curves]
        low = min(value for _, curve in drawn for _, value in curve)
        high = max(value for _, curve in drawn for _, value in curve)
        yield f"{name}, from {low:.4g} to {high:.4g}"
        for side, curve in drawn:
            (first, begun), (last, ended) = curve[0], curve[-1]
            spark = sparkline([value for _, value in curve], low, high)
            yield f"  {side.label:<{width}}  {spark}  {begun:.4g} @{first} -> {ended:.4g} @{last}"


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """At most 24 of the values, the last among them, as bars between `low` and `high`."""
    count = min(len(values), _POINTS)
    chosen = [values[round(i * (len(values) - 1) / max(1, count - 1))] for i in range(count)]
    span = (high - low) or 1.0
    return "".join(_BLOCKS[round((value - low) / span * (len(_BLOCKS) - 1))] for value in chosen)
