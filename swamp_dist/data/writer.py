"""Writes samples as a shard set: WebDataset tars, an index a split, and the manifest last.

Everything is written to a hidden folder beside the target, synced to disk, and renamed into place as
the last act: a build that was killed never looks finished.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from swamp_dist.data.build import Builder, MissingPolicy, Report, build_units, one_by_one
from swamp_dist.data.closing import close_set
from swamp_dist.data.coverage import Coverage, cover
from swamp_dist.data.manifest import (
    MANIFEST_FILE,
    Manifest,
    ManifestRecord,
    SetTables,
    load_manifest,
    read_manifest,
)
from swamp_dist.data.shard_plan import BuildPlan, BuildSource, plan_build
from swamp_dist.data.staging import Staging, building_folder, discard_others, publish
from swamp_dist.errors import UserError
from swamp_dist.file_names import METRICS_FILE, RESULT_FILE, WEIGHTS_FILE
from swamp_dist.records import RawSplit, Sample

logger = logging.getLogger(__name__)


def write_shards(
    samples_by_split: Mapping[str, Iterable[Sample]],
    folder: Path,
    name: str,
    source: Mapping[str, Any],
    entries_per_shard: int = 1000,
    shuffle_seed: int | None = 0,
    item_fields: Collection[str] = (),
    force: bool = False,
    ragged_fields: Collection[str] = (),
) -> Manifest:
    """Write a set of samples that are in memory; a set that is there and has the same recipe is left alone.

    Args:
        samples_by_split: the samples of every split.
        folder: where the set goes; its parent is made when needed.
        name: name of the set.
        source: JSON-ready settings that decide the samples; part of the recipe and the manifest's hash.
        entries_per_shard: entries in one tar.
        shuffle_seed: entries are written in an order shuffled with it, so that every shard is a fair
            sample; None writes them as they come.
        item_fields: fields whose arrays have a leading axis of several items.
        force: replace a set of another recipe.
        ragged_fields: fields whose item is a set: an array of any number of elements on a leading axis.

    Raises:
        UserError: the folder holds another set or other files; a split is empty; an entry has an unsafe
            or repeated key, a value that is not finite, or fields unlike the first entry's.
    """
    recipe = ManifestRecord(
        name=name, source=dict(source), entries_per_shard=entries_per_shard, shuffle_seed=shuffle_seed,
        fields={}, classes=0, splits={},
    )  # fmt: skip
    with building_alone(folder):
        existing = find_existing(folder, recipe, force)
        if existing is not None:
            logger.info("shard set %s is up to date", folder)
            return existing
        # The recipe does not say where these samples came from, so nothing half-built can be trusted.
        discard_building(folder)
        opened = BuildSource(
            {split: raw_split(list(samples)) for split, samples in samples_by_split.items()},
            frozenset(item_fields),
            frozenset(ragged_fields),
        )
        plan, policy = plan_build(recipe, opened), MissingPolicy()
        staging = Staging(folder, plan.hash)
        return finish_set(staging, plan, policy, one_by_one(staging, plan, opened, policy))[0]


def raw_split(samples: list[Sample]) -> RawSplit:
    """A split of samples that are in memory."""
    return RawSplit([sample.key for sample in samples], samples.__getitem__)


@contextlib.contextmanager
def building_alone(folder: Path) -> Iterator[None]:
    """Held while `folder` gets its set; of two builders the second waits and finds the set built."""
    folder = folder.resolve()  # `.` has no name, and a folder may have several
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        logger.info("another process is building %s: waiting for it", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def discard_building(folder: Path) -> None:
    """Remove what any build of `folder` has left unfinished."""
    shutil.rmtree(building_folder(folder), ignore_errors=True)


def finish_set(
    staging: Staging,
    plan: BuildPlan,
    policy: MissingPolicy,
    builder: Builder,
    report: Report = lambda done, total: None,
    published: Mapping[str, int] | None = None,
    tables: SetTables | None = None,
) -> tuple[Manifest, Coverage]:
    """Build what is missing of a set and give it its name. Call it inside `building_alone`.

    Raises:
        UserError: as `build_units`; finished shards stay in the staging folder for the next call.
    """
    discard_others(staging)
    staging.prepare()
    records = build_units(staging, plan, policy, builder, report)
    tables = tables or SetTables()
    coverage = cover(plan, records, published, tables.known_words)
    record = close_set(staging, plan, records, coverage, tables)
    publish(staging)
    logger.info(
        "shard set %s: %s", staging.folder, ", ".join(f"{k} {v.entries}" for k, v in record.splits.items())
    )
    return load_manifest(staging.folder), coverage


def find_existing(folder: Path, recipe: ManifestRecord, force: bool = False) -> Manifest | None:
    """The complete set at `folder` if it has this recipe; None where a set may be written.

    Raises:
        UserError: the folder holds a set of another recipe (without `force`), a damaged set (likewise),
            or files that are not a shard set, or a run beside it, which would go with it.
    """
    if not folder.exists():
        return None
    of_a_run = [name for name in (RESULT_FILE, METRICS_FILE, WEIGHTS_FILE) if (folder / name).exists()]
    if force and of_a_run:
        raise UserError(
            f"{folder} holds a run beside the shard set ({', '.join(of_a_run)}), which replacing the set "
            "would remove: move the run away, or write to another folder (--out)"
        )
    if not (folder / MANIFEST_FILE).is_file():
        if folder.is_dir() and not any(folder.iterdir()):
            return None
        raise UserError(f"{folder} exists and is not a shard set (no manifest.json): choose another folder")
    if force:
        return None
    found, wanted = read_manifest(folder).record.recipe(), recipe.recipe()
    if found != wanted:
        lines = [f"  {key}: found {a!r}, wanted {b!r}" for key, a, b in _differences(found, wanted)]
        raise UserError(
            f"{folder} holds a shard set of another recipe:\n" + "\n".join(lines[:15]) + "\n"
            "Write to another folder (--out), remove this one, or replace it with --force."
        )
    return load_manifest(folder)


def _differences(found: Any, wanted: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in sorted(found.keys() | wanted.keys()):
            yield from _differences(found.get(name), wanted.get(name), f"{key}.{name}" if key else name)
    elif found != wanted:
        yield key, found, wanted
