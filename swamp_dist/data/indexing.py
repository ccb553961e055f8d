"""Writes the payload indexes of a set that stands: of one built without, or with a damaged one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from swamp_dist.atomic_files import write_atomically
from swamp_dist.data.closing import write_payloads
from swamp_dist.data.entry import shard_error
from swamp_dist.data.manifest import Manifest, SplitIndex, read_manifest
from swamp_dist.data.payload_index import index_payloads
from swamp_dist.data.verify import entry_rows, shard_fault
from swamp_dist.data.writer import building_alone
from swamp_dist.file_names import MANIFEST_FILE


def index_set(folder: Path) -> Manifest:
    """Write the payload index of every split and name it in the manifest, whose hash stays.

    A shard is verified before it is indexed, so that no damage is taken for what was built.

    Raises:
        UserError: as `read_manifest`, or an index is damaged. ShardError: a shard is.
        OSError: a file cannot be written; the set is as it was, or has some of its indexes.
    """
    read_manifest(folder)  # before a lock is made beside what is no set
    with building_alone(folder):
        manifest = read_manifest(folder)
        splits = dict(manifest.record.splits)
        for name, split in splits.items():
            rows = [_shard_rows(manifest, manifest.split(name), n) for n in range(len(split.shards))]
            splits[name] = split.model_copy(update={"payloads": write_payloads(folder, name, rows)})
        record = manifest.record.model_copy(update={"splits": splits})
        write_atomically(folder / MANIFEST_FILE, record.model_dump_json(indent=1))
        return read_manifest(folder)


def _shard_rows(manifest: Manifest, split: SplitIndex, number: int) -> np.ndarray:
    shard, first = split.record.shards[number], sum(split.shard_entries[:number])
    path, last = split.shard_path(number), first + shard.entries
    fault = shard_fault(path, shard, split.rows[first:last].tolist(), number, manifest.fields)
    if fault is not None:
        raise shard_error(path, None, fault)
    return index_payloads(path, entry_rows(split, first, last), manifest.fields)
