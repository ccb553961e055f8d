"""Raw splits for tests of builds: every read leaves a line in a log that all processes share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from swamp_dist.data.build import Builder, MissingPolicy, one_by_one
from swamp_dist.data.manifest import Manifest, ManifestRecord
from swamp_dist.data.shard_plan import BuildPlan, BuildSource, plan_build
from swamp_dist.data.staging import Staging
from swamp_dist.data.writer import building_alone, find_existing, finish_set
from swamp_dist.errors import BadEntry
from swamp_dist.records import RawSplit, Sample
from tests.data.shard_sets import sample

SPLITS = {"train": 37, "validation": 12}


def open_raw(
    log: Path, splits: Mapping[str, int] = SPLITS, bad: tuple[str, ...] = (), deadly: str = ""
) -> BuildSource:
    """Splits of `sample(i)`; keys in `bad` have no raw data, and reading `deadly` kills the process."""

    def split(name: str, count: int) -> RawSplit:
        def read(i: int) -> Sample:
            key = sample(i).key
            with log.open("a") as file:
                file.write(f"{name}/{key}\n")
            if key == deadly:
                os.kill(os.getpid(), 9)
            if key in bad:
                raise BadEntry(key, "no 3D features", f"/raw/{key}.npy is missing")
            return sample(i)

        return RawSplit([sample(i).key for i in range(count)], read)

    return BuildSource({name: split(name, count) for name, count in splits.items()})


def recipe(per_shard: int = 10, seed: int | None = 0) -> ManifestRecord:
    return ManifestRecord(
        name="tiny", source={"kind": "test"}, entries_per_shard=per_shard, shuffle_seed=seed,
        fields={}, classes=0, splits={},
    )  # fmt: skip


def prepared(folder: Path, source: BuildSource, per_shard: int = 10) -> tuple[Staging, BuildPlan]:
    plan = plan_build(recipe(per_shard), source)
    staging = Staging(folder, plan.hash)
    staging.prepare()
    return staging, plan


def build_raw(
    folder: Path, source: BuildSource, policy: MissingPolicy | None = None, builder: Builder | None = None
) -> Manifest:
    """A build as the command does it."""
    policy = policy or MissingPolicy()
    with building_alone(folder):
        existing = find_existing(folder, recipe())
        if existing is not None:
            return existing
        staging, plan = prepared(folder, source)
        builder = builder or one_by_one(staging, plan, source, policy)
        return finish_set(staging, plan, policy, builder)[0]


def reads(log: Path) -> list[str]:
    """Entries read so far, in order."""
    return log.read_text().splitlines() if log.exists() else []


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a set."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
