"""A split of a shard set for a plain `DataLoader`, in the order in which a stage reads it.

The order is that of `lanes`: which entries the ranks' batches of a step hold together depends on seed, epoch
and the size of the global batch alone, never on ranks or loader processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import IterableDataset, get_worker_info

from swamp_dist.config import DataSettings
from swamp_dist.data.entry import Entry
from swamp_dist.data.lanes import batch_entries, epoch_order, item_choice, plan_batches, steps_per_epoch
from swamp_dist.data.loading_memory import resident_shards
from swamp_dist.data.manifest import load_manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.environment import read_environment
from swamp_dist.errors import UserError
from swamp_dist.loading import from_values


@dataclass(frozen=True)
class _Place:
    """Where a process goes on in an epoch."""

    epoch: int = 0
    step: int = 0
    entry: int = 0
    """Entries of this rank's share of the step that are done."""
    worker: int | None = None
    """Loader process that the place belongs to; None: it holds for all."""
    workers: int = 1


class ShardDataset(IterableDataset[dict[str, Any]]):
    """The entries of a split, shuffled anew in every epoch, for this rank.

        data = ShardDataset("data/mine", "train", batch=256, seed=1)
        loader = DataLoader(data, batch_size=data.local_batch, num_workers=4)
        for epoch in range(10):
            data.set_epoch(epoch)
            for batch in loader:  # {"text": (b, ...), "video": (b, ...), "__key__": [...], ...}

    An epoch is floor(N / batch) steps for all ranks. With `batch_size=data.local_batch` the batches of a
    loader are the steps of the order, for any number of loader processes: process j of n reads the steps
    s = j (mod n), whole. With another `batch_size` every entry still comes once, in another order.

    An entry is a dictionary of its fields as tensors, of an image as `bytes` and of a text as `str`, neither
    decoded, of a field of words as row numbers of the set's word table, of a ragged field as (elements, ...),
    which a loader's `collate_fn` has to pad; and `__key__` (str), `__index__` (its
    number in the split) and `__label__` (-1 where it has none). Of a field with several items (captions) one
    is drawn, by seed, epoch and key, or all are given.

    `state_dict` tells where this process is: without loader processes the dataset itself, with torchdata's
    `StatefulDataLoader` each of them. A plain `DataLoader` with processes reads ahead and cannot tell; count
    its batches and go on with `load_state_dict({"epoch": epoch, "step": batches})`, which costs no reading.
    """

    def __init__(
        self,
        shards: Path | str,
        split: str = "train",
        fields: Sequence[str] | None = None,
        *,
        batch: int,
        seed: int = 0,
        items: Literal["one", "all"] = "one",
        rank: int | None = None,
        world_size: int | None = None,
        **reading: Any,
    ) -> None:
        """Open a split; nothing but manifest and index is read.

        Args:
            shards: folder of a built shard set.
            split: name of the split.
            fields: fields to read; default: all.
            batch: entries of a step over all ranks; the number of ranks has to divide it.
            seed: of the order and of the items that are drawn; with those of a job it reads as a stage does.
            items: `one` of a field's several items, drawn, or `all` on a leading axis of changing length.
            rank, world_size: place among the ranks; default: of the joined process group, else of the
                environment (torchrun, srun), else alone.
            reading: `lanes`, `full_shuffle_below`, `shuffle_block`, `reading` and `cache` of a job's `data`.

        Raises:
            UserError: no such set, split or field, or a batch that does not fit split or ranks.
        """
        super().__init__()
        self._data = _settings(shards, batch, reading)
        self.manifest = load_manifest(Path(shards))
        self.fields = tuple(self.manifest.fields if fields is None else fields)
        self.rank, self.world_size = _place(rank, world_size)
        self._seed, self._items = seed, items
        index = self.manifest.split(split)
        self._plan = plan_batches(batch, 1, self._data.num_lanes, self.world_size, len(index))
        full = index.bytes < self._data.full_shuffle_below
        lanes = self._plan.lanes // self.world_size
        resident = resident_shards(index, lanes, full, self._data.shuffle_block)
        how = self._data.reading, self._data.cache
        self._reader = open_reader(self.manifest, split, self.fields, *how, resident)
        # Shared, so that loader processes that live on (persistent_workers) hear of the next epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._start = self._now = _Place()

    @property
    def local_batch(self) -> int:
        """Entries of a step on this rank."""
        return self._plan.local_entries

    @property
    def steps(self) -> int:
        """Steps of an epoch, the same on all ranks."""
        return steps_per_epoch(len(self._reader.split), self._plan)

    def __len__(self) -> int:
        """Entries of an epoch on this rank."""
        return self.steps * self.local_batch

    def set_epoch(self, epoch: int) -> None:
        """Read this epoch from its beginning from the next iteration on. Call it before each epoch: the same
        epoch comes in the same order."""
        self._epoch.fill_(epoch)
        self._start = self._now = _Place(epoch)

    def state_dict(self) -> dict[str, int | None]:
        """Where this process is: plain numbers."""
        return vars(self._now).copy()

    def load_state_dict(self, state: Mapping[str, int | None]) -> None:
        """Go on from a place, by arithmetic.

        Args:
            state: of `state_dict`, or `epoch` and `step` alone: steps done.

        Raises:
            UserError: it is no place in an epoch of this split.
        """
        names = _Place.__dataclass_fields__
        if not state.keys() <= names.keys() or not {"epoch", "step"} <= state.keys():
            raise UserError(f"expected a state of {', '.join(names)}, found {', '.join(map(str, state))}")
        place = _Place(**state)  # type: ignore[arg-type]
        if not (0 <= place.step <= self.steps + place.workers and 0 <= place.entry < self.local_batch):
            raise UserError(
                f"step {place.step}, entry {place.entry}: an epoch has {self.steps} steps of "
                f"{self.local_batch} entries on each rank; was the state written with another batch?"
            )
        self._epoch.fill_(place.epoch)
        self._start = self._now = place

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The entries of this rank, or of this loader process.

        Raises:
            ShardError: an entry is damaged.
            UserError: a place that this number of loader processes cannot go on from.
        """
        info, epoch = get_worker_info(), int(self._epoch)
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        start = self._start if self._start.epoch == epoch else _Place(epoch)
        first = start.step + (worker if start.worker is None else 0)
        _check_place(start, worker, workers)
        split, skipped = self._reader.split, start.entry
        shuffle = self._data.full_shuffle_below, self._data.shuffle_block
        order = epoch_order(split.shard_entries, split.bytes, self._seed, epoch, *shuffle)
        own = None if info is None else worker
        for step in range(first, self.steps, workers):
            indices = batch_entries(order, step, self._plan, self.rank)
            for done in range(skipped, len(indices)):
                whole = done + 1 == len(indices)
                self._now = _Place(epoch, step + workers * whole, 0 if whole else done + 1, own, workers)
                yield self._sample(int(indices[done]), epoch)
            skipped = 0

    def entry(self, index: int) -> dict[str, Any]:
        """Entry `index` of the split, counted from 0 in the order of the set, whatever rank or epoch.

        Raises:
            IndexError: there are fewer entries. ShardError: it is damaged.
        """
        if not 0 <= index < len(self._reader.split):
            raise IndexError(f"entry {index}: the split has {len(self._reader.split)} entries")
        return self._sample(index, int(self._epoch))

    def _sample(self, index: int, epoch: int) -> dict[str, Any]:
        entry = self._reader.read([index])[0]
        values = {name: self._value(entry, name, epoch) for name in self.fields}
        return values | {"__key__": entry.key, "__index__": entry.index, "__label__": entry.label}

    def _value(self, entry: Entry, name: str, epoch: int) -> Any:
        array: np.ndarray = entry.arrays[name]
        if self.manifest.field(name).items and self._items == "one":
            array = array[item_choice(self._seed, epoch, entry.key, len(array), 1)[0], ...]
        if array.dtype != object:
            return torch.from_numpy(np.array(array))  # a copy: entries are read-only
        return array.item() if array.ndim == 0 else array.tolist()


def _settings(shards: Path | str, batch: int, reading: Mapping[str, Any]) -> DataSettings:
    allowed = {"lanes", "full_shuffle_below", "shuffle_block", "reading", "cache"}
    if unknown := sorted(reading.keys() - allowed):
        raise UserError(
            f"ShardDataset: unknown {', '.join(unknown)}; settings of `data` that count here: "
            f"{', '.join(sorted(allowed))}"
        )
    values = {"shards": str(shards), "entries": batch, **reading}
    return from_values(values, DataSettings, "ShardDataset")


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise UserError("rank and world_size belong together: give both or neither")
    if rank is None or world_size is None:
        if dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        found = read_environment()
        return found.rank, found.world_size
    if not 0 <= rank < world_size:
        raise UserError(f"rank {rank} of {world_size}: ranks count from 0")
    return rank, world_size


def _check_place(start: _Place, worker: int, workers: int) -> None:
    if start.worker is not None and (start.worker, start.workers) != (worker, workers):
        raise UserError(
            f"the state is that of loader process {start.worker} of {start.workers}, this is process "
            f"{worker} of {workers}.\nFix: use as many, or load epoch and step alone"
        )
    if start.entry > 0 and workers > 1 and start.worker is None:
        raise UserError(
            f"the state is in the middle of step {start.step}: several loader processes go on from a whole "
            "step only.\nFix: use no loader processes, or load epoch and step alone"
        )
