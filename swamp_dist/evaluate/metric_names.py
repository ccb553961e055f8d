"""Names of metrics that a user gives: refused where they name nothing, with the names that do."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from swamp_dist.errors import UserError


def check_metric_name(name: str, known: Sequence[str], where: str) -> None:
    """Refuse a metric name that is not among `known`.

    Raises:
        UserError: with the nearest known name and the list of all.
    """
    if name in known:
        return
    figures = [] if "/" in name else [each.rpartition("/")[2] for each in known]
    near = difflib.get_close_matches(name, figures or known, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    if name.startswith("class/") and known and not any(each.startswith("class/") for each in known):
        guess += "\nFix: figures by class need relevance: [pair, class] in the evaluation."
    listed = "\n  ".join(names_in_short(known)) or "(none)"
    raise UserError(f"metric {name!r} is not a figure of {where}.{guess}\nKnown names:\n  {listed}")


def names_in_short(known: Sequence[str]) -> list[str]:
    """Names of metrics that share their relevance and figures in one line: `pair/{a_to_b,b_to_a}/r_at_1`."""
    figures: dict[tuple[str, str], list[str]] = {}
    for name in known:
        relevance, _, rest = name.partition("/")
        direction, _, figure = rest.partition("/")
        figures.setdefault((relevance, direction), []).append(figure)
    directions: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (relevance, direction), own in figures.items():
        directions.setdefault((relevance, tuple(own)), []).append(direction)
    return ["/".join(map(_any_of, ([first], rest, own))) for (first, own), rest in directions.items()]


def _any_of(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{{{','.join(names)}}}"
