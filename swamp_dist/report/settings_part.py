"""The settings of a report: what differs between its runs, or of one run what differs from the defaults."""

from __future__ import annotations

from collections.abc import Sequence

from swamp_dist.loading import REQUIRED, Setting, describe, value_text
from swamp_dist.pipelines.compare import RunComparison, Side
from swamp_dist.report.facts import RunFacts
from swamp_dist.report.parts import Section, folded, notes, words

_SIDE_BY_SIDE = 6
"""Groups of runs that have a column each; more of them have a row each."""
_LONGEST = 300
"""Characters of a value or explanation that are shown."""


def settings_part(runs: Sequence[RunFacts], compared: RunComparison | None, has_all: bool) -> Section:
    """Differences first; the rest on request.

    Args:
        has_all: whether every setting is listed, those at their default too; of one run alone.
    """
    if len(runs) == 1:
        return Section("settings", "Settings", _of_one(describe(runs[0].settings), has_all))
    body = "" if compared is None else _differences(compared.sides)
    return Section("settings", "Settings", body + folded("Settings that all runs share", _shared(runs)))


def _of_one(settings: Sequence[Setting], has_all: bool) -> str:
    changed = [each for each in settings if not each.is_default]
    header = ("setting", "value", "default", "what it does")
    body = words("Different from the default", header, map(_row, changed))
    if has_all:
        body += folded(f"All {len(settings)} settings", words("All settings", header, map(_row, settings)))
    return body


def _row(setting: Setting) -> tuple[str, ...]:
    default = "required" if setting.default == REQUIRED else value_text(setting.default)
    return setting.key, *map(_cut, (value_text(setting.value), default, setting.description))


def _differences(sides: Sequence[Side]) -> str:
    keys = list(sides[0].differing)
    if not keys:
        return notes(["They differ in nothing but seeds and names."])
    title = "Different between runs"
    if len(sides) <= _SIDE_BY_SIDE:
        rows = [(key, *(_cut(side.differing[key]) for side in sides)) for key in keys]
        return words(title, ("setting", *(_name(side) for side in sides)), rows)
    rows = [(_name(side), *(_cut(side.differing[key]) for key in keys)) for side in sides]
    return words(title, ("runs", *keys), rows)


def _name(side: Side) -> str:
    return side.label if len(side.runs) == 1 else f"{side.label} ({len(side.runs)} runs)"


def _shared(runs: Sequence[RunFacts]) -> str:
    """Settings that are equal in all runs and not at their default."""
    described = [{each.key: each for each in describe(run.settings)} for run in runs]
    first, *others = described
    equal = [
        each
        for key, each in first.items()
        if not each.is_default and all(key in other and other[key].value == each.value for other in others)
    ]
    header = ("setting", "value", "default", "what it does")
    return words("The same in all runs, and different from the default", header, map(_row, equal))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3].rstrip() + "..."
