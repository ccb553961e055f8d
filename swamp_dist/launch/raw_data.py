"""Opens the raw data that a recipe names: the one place that knows all sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swamp_dist.config import (
    HowTo100MSource,
    LsmdcSource,
    MsrVttSource,
    OpenMojiSource,
    SourceSettings,
    SyntheticSource,
    YouCook2Source,
)
from swamp_dist.records import RawSplit


@dataclass(frozen=True)
class RawData:
    """A raw data set, opened but not read."""

    splits: Mapping[str, RawSplit]
    item_fields: frozenset[str] = frozenset()
    """Fields whose arrays have a leading axis of several items."""
    published: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Published counts by split, of `entries` or `captions`; nothing where none are known."""


def open_raw_data(settings: SourceSettings) -> RawData:
    """Open a source.

    Raises:
        UserError: raw files are missing or malformed as a whole.
    """
    match settings:
        case SyntheticSource() as source:
            from swamp_dist.sources import synthetic

            return RawData(synthetic.open_splits(source), synthetic.item_fields(source))
        case OpenMojiSource() as source:
            from swamp_dist.sources import openmoji

            return RawData(openmoji.open_splits(source))
        case HowTo100MSource() as source:
            from swamp_dist.sources import howto100m

            return RawData(howto100m.open_splits(source), howto100m.item_fields(source), _published(source))
        case YouCook2Source() as source:
            from swamp_dist.sources import youcook2

            return RawData(youcook2.open_splits(source), youcook2.item_fields(source), _published(source))
        case MsrVttSource() as source:
            from swamp_dist.sources import msrvtt

            return RawData(msrvtt.open_splits(source), msrvtt.item_fields(source), _published(source))
        case LsmdcSource() as source:
            from swamp_dist.sources import lsmdc

            return RawData(lsmdc.open_splits(source), lsmdc.item_fields(source), _published(source))


def _published(settings: SourceSettings) -> dict[str, dict[str, int]]:
    from swamp_dist.sources.published import published_counts

    return {split: {"entries": count} for split, count in published_counts(settings).items()}


def source_record(settings: SourceSettings) -> dict[str, Any]:
    """The source's settings as recipes and manifests keep them: where files lie changes nothing."""
    return settings.model_dump(mode="json", exclude={"download"})
