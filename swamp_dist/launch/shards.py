"""Builds a shard set from its recipe: the one place where sources and data meet."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from swamp_dist.config import OpenMojiSource, ShardSettings, SyntheticSource
from swamp_dist.data.manifest import Manifest, ManifestRecord
from swamp_dist.data.writer import find_existing, write_shards
from swamp_dist.records import Sample

logger = logging.getLogger(__name__)


def build_shards(settings: ShardSettings, out: Path, force: bool = False) -> Manifest:
    """Build the shard set at `out`, or return the one that is there if it has the same recipe.

    Raises:
        UserError: `out` holds another set (without `force`) or other files; the source's raw data are
            missing; the samples cannot be stored.
    """
    source = settings.source.model_dump(mode="json", exclude={"download"})  # where files lie changes nothing
    wanted = ManifestRecord(
        name=settings.name, source=source, entries_per_shard=settings.entries_per_shard,
        shuffle_seed=settings.shuffle_seed, fields={}, classes=0, splits={},
    )  # fmt: skip
    existing = find_existing(out, wanted, force)
    if existing is not None:
        logger.info("shard set %s is up to date", out)
        return existing  # before the samples are made, which can take minutes
    samples, item_fields = _samples(settings)
    return write_shards(
        samples,
        out,
        settings.name,
        source,
        settings.entries_per_shard,
        settings.shuffle_seed,
        item_fields,
        force,
    )


def _samples(settings: ShardSettings) -> tuple[Mapping[str, Iterable[Sample]], frozenset[str]]:
    """The source's samples by split, and which fields have several items an entry."""
    match settings.source:
        case SyntheticSource() as source:
            from swamp_dist.sources import synthetic

            return synthetic.samples(source), synthetic.item_fields(source)
        case OpenMojiSource() as source:
            from swamp_dist.sources import openmoji

            return openmoji.samples(source), frozenset()
