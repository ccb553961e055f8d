"""Rows of a table that were measured over different shard sets or fields, told in one line below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from swamp_dist.evaluate.results import DIRECTIONS
from swamp_dist.records import EvaluationResult, StageResult

_SHARDS = "shards_sha256"
"""Of the provenance of a result: the hash of its set's manifest."""
_SHOWN = 4
"""Rows of a set, and sets, that the line names at most."""
_LETTERS = 8
"""Of a hash."""


@dataclass(frozen=True)
class MeasuredRow:
    """What a row of figures comes from, cell by cell; None where a cell is not done."""

    label: str
    results: Sequence[StageResult | None]
    evaluations: Sequence[EvaluationResult | None]


@dataclass
class _Group:
    """Rows that are over the same sets in every cell that they share, with directions of the same names."""

    hashes: dict[int, str]
    directions: Mapping[str, str]
    labels: list[str] = field(default_factory=list)

    def takes(self, hashes: Mapping[int, str], directions: Mapping[str, str]) -> bool:
        return self.directions == directions and all(
            self.hashes.get(cell, each) == each for cell, each in hashes.items()
        )

    def told(self) -> str:
        sets = [each[:_LETTERS] for each in dict.fromkeys(self.hashes.values())]
        of = [f"shard set{'s' * (len(sets) > 1)} {_some(sets, 'sets')}"] if sets else []
        of += list(self.directions.values())[:1]
        return f"{_some(list(dict.fromkeys(self.labels)), 'rows')} ({', '.join(of)})"


def differences_note(rows: Sequence[MeasuredRow]) -> str:
    """Which rows are over which shard set, by the hash of its manifest, and what their directions are called;
    empty where all rows agree. Cells of one row may be over sets of their own, of a seed each."""
    groups: list[_Group] = []
    for row in rows:
        hashes = {
            cell: str(result.provenance[_SHARDS])
            for cell, result in enumerate(row.results)
            if result is not None and result.provenance.get(_SHARDS)
        }
        evaluation = next((each for each in row.evaluations if each is not None), None)
        if evaluation is None:
            continue
        directions = _directions(evaluation)
        group = next((each for each in groups if each.takes(hashes, directions)), None)
        if group is None:
            groups.append(group := _Group({}, directions))
        group.hashes |= hashes
        group.labels.append(row.label)
    if len(groups) < 2:
        return ""
    listed = _some([group.told() for group in groups], "groups of rows", "; ")
    return f"Measured over different data, so rows of two groups do not compare: {listed}."


def direction_names(evaluations: Sequence[EvaluationResult], key: str) -> set[str]:
    """What `<pair|class>/<a_to_b|b_to_a>` is called in these results, `text->video` for example."""
    return {each.metrics[key].direction for each in evaluations if key in each.metrics}


def _directions(evaluation: EvaluationResult) -> Mapping[str, str]:
    """Name of each direction; the same under all notions of relevance."""
    found = {key.rpartition("/")[2]: metrics.direction for key, metrics in evaluation.metrics.items()}
    return {each: found[each] for each in DIRECTIONS if each in found}


def _some(names: Sequence[str], what: str, between: str = ", ") -> str:
    more = f"{between}and {len(names) - _SHOWN} more {what}" if len(names) > _SHOWN else ""
    return between.join(names[:_SHOWN]) + more
