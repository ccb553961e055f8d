"""Builds the shards of a set: finds the finished ones and lets the others be built."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from swamp_dist.data.coverage import (
    skipped_kinds,
    skipped_lines,
)
from swamp_dist.data.manifest import (
    FieldSpec,
)
from swamp_dist.data.shard_plan import BuildPlan, BuildSource, Unit
from swamp_dist.data.shard_unit import build_unit
from swamp_dist.data.staging import Staging, UnitRecord, finished_units
from swamp_dist.errors import UserError

logger = logging.getLogger(__name__)

Builder: TypeAlias = Callable[[Sequence[Unit], Mapping[str, FieldSpec]], Iterator[UnitRecord]]
"""Builds shards in any order, each record given when its shard is finished; takes what is known of the
fields."""
Report: TypeAlias = Callable[[int, int], None]
"""Called with finished shards and all shards."""


@dataclass(frozen=True)
class MissingPolicy:
    """What becomes of entries whose raw data are missing or malformed."""

    may_skip: bool = False
    max_share: float = 0.01
    """A split that lacks a larger share of its entries fails all the same."""


def one_by_one(staging: Staging, plan: BuildPlan, source: BuildSource, policy: MissingPolicy) -> Builder:
    """Builds shards in this process."""

    def build(units: Sequence[Unit], fields: Mapping[str, FieldSpec]) -> Iterator[UnitRecord]:
        known = dict(fields)
        for unit in units:
            yield build_unit(staging, plan, unit, source, policy.may_skip, known)

    return build


def build_units(
    staging: Staging,
    plan: BuildPlan,
    policy: MissingPolicy,
    builder: Builder,
    report: Report,
    chosen: Sequence[Unit] | None = None,
) -> list[UnitRecord]:
    """Records of the chosen shards (default all), in the plan's order; those that are finished are not built.

    Raises:
        UserError: shards do not fit each other, too many entries are missing, or as the builder.
    """
    units = plan.units if chosen is None else chosen
    records = {
        unit: record
        for unit, record in finished_units(staging, plan, policy.may_skip).items()
        if unit in set(units)
    }
    checked = _Checks(plan, policy)
    for record in records.values():
        checked.add(record)
    if records:
        logger.info("going on from %d of %d shards in %s", len(records), len(units), staging.home)
    report(len(records), len(units))
    by_name = {unit.name: unit for unit in units}
    missing = [unit for unit in units if unit not in records]
    for record in builder(missing, checked.fields):
        records[by_name[f"{record.split}-{record.number:06d}"]] = record
        checked.add(record)
        report(len(records), len(units))
    return [records[unit] for unit in units]


class _Checks:
    """What no shard can see alone: equal fields, and how much is missing of a split."""

    def __init__(self, plan: BuildPlan, policy: MissingPolicy) -> None:
        self._plan = plan
        self._policy = policy
        self._first: UnitRecord | None = None
        self._kinds: set[str] = set()
        self._short: dict[str, list[UnitRecord]] = {}

    @property
    def fields(self) -> Mapping[str, FieldSpec]:
        return self._first.fields if self._first else {}

    def add(self, record: UnitRecord) -> None:
        if record.rows:
            self._first = self._first or record
            _check_same_fields(self._first, record)
        for entry in record.skipped:
            if entry.kind not in self._kinds:
                self._kinds.add(entry.kind)
                logger.warning("leaving out entries: %s; first: %s: %s", entry.kind, entry.key, entry.message)
        if record.skipped:
            self._short.setdefault(record.split, []).append(record)
            self._check_share(record.split)

    def _check_share(self, split: str) -> None:
        found, listed = self._short[split], self._plan.entries[split]
        count = sum(len(record.skipped) for record in found)
        if count <= self._policy.max_share * listed:
            return
        lines = "".join(f"\n  {line}" for line in skipped_lines(skipped_kinds(found)))
        raise UserError(
            f"split {split!r}: {count} of {listed} entries ({count / listed:.2%}) cannot be built so far, "
            f"more than max_missing_share={self._policy.max_share:g} allows:{lines}\n"
            "Mend the raw data or raise max_missing_share; finished shards are kept."
        )


def _check_same_fields(first: UnitRecord, other: UnitRecord) -> None:
    if other.fields == first.fields:
        return
    names = sorted(
        name
        for name in first.fields.keys() | other.fields
        if first.fields.get(name) != other.fields.get(name)
    )
    name = names[0]
    raise UserError(
        f"{other.shard.file} (entry {other.rows[0][0]!r} and on), field {name!r}: "
        f"{other.fields.get(name, 'none')}; "
        f"{first.shard.file} (entry {first.rows[0][0]!r} and on): {first.fields.get(name, 'none')}.\n"
        "Every entry of a set has the same fields; see which of the two raw files is wrong."
    )
