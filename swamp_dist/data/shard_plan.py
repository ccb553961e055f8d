"""Which entry goes into which shard: decided before anything is read, the same in every process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from swamp_dist.data.lanes import permutation
from swamp_dist.data.manifest import ManifestRecord
from swamp_dist.data.sample_checks import SPLIT_NAME, check_keys, check_name
from swamp_dist.errors import UserError
from swamp_dist.records import RawSplit, Sample

_VERSION = 2
"""Goes up when the same recipe gives other bytes, so that no build goes on from shards of an older rule."""


def no_counts(sample: Sample) -> Mapping[str, int]:
    """Nothing is counted in sets without captions."""
    return {}


@dataclass(frozen=True)
class BuildSource:
    """A raw data set as a build takes it."""

    splits: Mapping[str, RawSplit]
    item_fields: frozenset[str] = frozenset()
    """Fields whose arrays have a leading axis of several items."""
    ragged_fields: frozenset[str] = frozenset()
    """Fields whose item is a set: an array with a leading axis of any number of elements."""
    tally: Callable[[Sample], Mapping[str, int]] = no_counts
    """Figures of one entry that the coverage report sums: captions, tokens."""


@dataclass(frozen=True)
class Unit:
    """One shard to be built, independent of all others."""

    split: str
    number: int
    start: int
    stop: int
    """Its entries are places [start, stop) of the order in which the split is written."""

    @property
    def name(self) -> str:
        """For example train-000003."""
        return f"{self.split}-{self.number:06d}"


@dataclass(frozen=True)
class BuildPlan:
    """All shards of a set, and a hash over what decides their bytes."""

    recipe: ManifestRecord
    """Without fields, classes and splits, which the build finds."""
    entries: Mapping[str, int]
    """Entries of the raw data, by split."""
    units: tuple[Unit, ...]
    keys_sha256: str
    decides: Mapping[str, Any] = field(default_factory=dict)
    """Further JSON-ready settings that decide the bytes."""

    @property
    def hash(self) -> str:
        """sha256 over recipe, keys and rule: shards of one hash belong to one set."""
        content = [_VERSION, self.recipe.recipe(), self.keys_sha256, dict(self.decides)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def plan_build(
    recipe: ManifestRecord, source: BuildSource, decides: Mapping[str, Any] | None = None
) -> BuildPlan:
    """Lay the entries of every split over shards.

    Args:
        recipe: name, source, entries_per_shard and shuffle_seed of the set.
        source: the opened raw data; nothing is read but keys.
        decides: further JSON-ready settings that decide the bytes of an entry.

    Raises:
        UserError: no splits, an empty split, an unsafe name, or a key that stands twice.
    """
    if not source.splits:
        raise UserError(f"shard set {recipe.name}: the source gave no splits")
    for name, split in source.splits.items():
        check_name("split", name, SPLIT_NAME)
        if not len(split.keys):
            raise UserError(f"split {name!r} is empty: the source gave no samples for it")
        check_keys(name, split.keys)
    entries = {name: len(split.keys) for name, split in source.splits.items()}
    size = recipe.entries_per_shard
    units = tuple(
        Unit(name, start // size, start, min(start + size, count))
        for name, count in entries.items()
        for start in range(0, count, size)
    )
    further = {"item_fields": sorted(source.item_fields), **(decides or {})}
    if source.ragged_fields:
        further["ragged_fields"] = sorted(source.ragged_fields)
    return BuildPlan(recipe, entries, units, keys_sha256(source), further)


def keys_sha256(source: BuildSource) -> str:
    """sha256 over the splits' names and keys in order: equal means the same raw entries."""
    digest = hashlib.sha256()
    for name, split in source.splits.items():
        digest.update(f"{name}:{len(split.keys)}\n".encode())
        digest.update("\n".join(split.keys).encode())
    return digest.hexdigest()


def unit_entries(plan: BuildPlan, unit: Unit) -> np.ndarray:
    """(n,) int64: numbers of the unit's entries in their split, in the order in which they are written."""
    seed = plan.recipe.shuffle_seed
    if seed is None:
        return np.arange(unit.start, unit.stop)
    return _written_order(plan.entries[unit.split], seed, unit.split)[unit.start : unit.stop]


@lru_cache(maxsize=8)
def _written_order(count: int, seed: int, split: str) -> np.ndarray:
    return permutation(count, "write", seed, split)
