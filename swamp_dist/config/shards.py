"""A shard recipe."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt

from swamp_dist.config.settings import Settings
from swamp_dist.config.sources import SourceSettings


class ShardSettings(Settings):
    """A shard recipe: where raw data come from and how they are packed."""

    name: str
    """Name of the shard set; the default folder is data/NAME."""
    source: SourceSettings
    entries_per_shard: PositiveInt = 1000
    """Entries in one tar file."""
    shuffle_seed: NonNegativeInt = 0
    """Entries are written in an order shuffled with this seed, so that any shard is a fair sample."""
