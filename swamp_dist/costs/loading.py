"""What reading the training data keeps in the memory of a rank's machine; imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swamp_dist.config import StageSettings
from swamp_dist.file_names import MANIFEST_FILE

if TYPE_CHECKING:
    from swamp_dist.data.loading_memory import Kept


def kept_by_loading(settings: StageSettings, world_size: int) -> list[Kept]:
    """What a rank keeps of every set that training draws from; nothing of sets that are yet to be built.

    Raises:
        UserError: a set is damaged or has no such split, or the batch cannot be shared out.
    """
    folders = [each.shards for each in settings.data.training_sets.values()]
    if settings.train is None or not all((folder / MANIFEST_FILE).is_file() for folder in folders):
        return []
    from swamp_dist.data.blend import open_blend  # import numpy
    from swamp_dist.data.lanes import plan_batches
    from swamp_dist.data.loading_memory import kept_of
    from swamp_dist.data.manifest import load_manifest

    data = settings.data
    blend = open_blend(data, load_manifest(folders[0]))
    plan = plan_batches(data.entries, data.pairs_per_entry, data.num_lanes, world_size, len(blend))
    return list(kept_of(blend, data, plan))


def loading_bytes(settings: StageSettings, world_size: int) -> int:
    """Bytes of all of it."""
    return sum(each.bytes for each in kept_by_loading(settings, world_size))


def loading_note(settings: StageSettings, world_size: int) -> str:
    """What a rank keeps, for people, set by set; empty where nothing is."""
    return "; ".join(
        f"{each.name}: "
        + (
            f"up to {each.shards:,} shards in each of {each.processes} loader processes"
            if each.shards
            else "all its entries"
        )
        for each in kept_by_loading(settings, world_size)
    )
