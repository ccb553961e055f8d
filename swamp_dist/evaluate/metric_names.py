"""Names of metrics that a user gives: refused where they name nothing, with the names that do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from swamp_dist.errors import UserError

_NUMBER = re.compile(r"[1-9]\d*")
_CUTOFF = re.compile("(?<=_at_)[KN]")


def check_metric_name(name: str, known: Sequence[str], where: str, cutoffs: Sequence[str] = ()) -> None:
    """Refuse a metric name that is not among `known`.

    Args:
        name: as it was given.
        known: names that there are.
        where: what has these figures, for the message.
        cutoffs: names with K or N for any number, `class/a_to_b/map_at_K`: they are listed, and suggested
            with the number of `name`.

    Raises:
        UserError: with the nearest known name and the list of all.
    """
    if name in known:
        return
    number = _NUMBER.search(name.rpartition("/")[2])
    meant = [*known, *(each if number is None else _CUTOFF.sub(number[0], each) for each in cutoffs)]
    figures = [] if "/" in name else [each.rpartition("/")[2] for each in meant]
    near = difflib.get_close_matches(name, figures or meant, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    if name.startswith("class/") and known and not any(each.startswith("class/") for each in known):
        guess += "\nFix: figures by class need relevance: [pair, class] in the evaluation."
    listed = "\n  ".join(names_in_short([*known, *cutoffs])) or "(none)"
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
