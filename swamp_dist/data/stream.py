"""Pairs of this rank, step after step, from any step on."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from swamp_dist.config import DataSettings
from swamp_dist.data.field_inputs import NO_TOKENIZERS, Tokenizers
from swamp_dist.data.lanes import batch_entries, epoch_order, steps_per_epoch
from swamp_dist.data.manifest import Manifest, SplitIndex
from swamp_dist.data.pairs import PairMaker, pair_maker
from swamp_dist.data.reader import EntryReader, open_reader
from swamp_dist.errors import UserError
from swamp_dist.records import BatchPlan, Inputs, PairBatch, map_tensors

logger = logging.getLogger(__name__)
_ENTRIES = 2**40
"""More than any split has: item i of entry e is number e + i * 2^40, and e itself where entries are drawn."""


class _Rows(NamedTuple):
    """A rank's share of a step, as loader processes hand it over (tensors can be pinned)."""

    ids: Tensor
    items: Tensor
    labels: Tensor
    a: Inputs
    b: Inputs


class PairStream:
    """Batches of one rank by global step. Made by `open_stream`."""

    def __init__(self, steps: _Steps, rank: int, device: torch.device, workers: int, prefetch: int) -> None:
        self._steps = steps
        self._device = device
        self._workers = workers
        self._prefetch = prefetch
        plan = steps.plan
        first = rank * plan.local_entries
        self._entries = torch.arange(first, first + plan.local_entries).repeat_interleave(
            plan.pairs_per_entry
        )
        self._entries = self._entries.to(device)

    @property
    def plan(self) -> BatchPlan:
        """How a global batch is laid over lanes and ranks."""
        return self._steps.plan

    @property
    def split(self) -> SplitIndex:
        """The split that is read; `split.keys(batch.ids)` names a batch's entries."""
        return self._steps.reader.split

    @property
    def steps_per_epoch(self) -> int:
        """floor(N / B), both in entries; the same on every rank."""
        return steps_per_epoch(len(self.split), self.plan)

    def batches(self, first_step: int, last_step: int) -> Iterator[PairBatch]:
        """This rank's pairs of the global steps first_step .. last_step - 1, across epochs.

        Steps count from 0. Starting at a step costs the same as starting at 0, and nothing here touches
        torch's or numpy's global random state.

        Raises:
            ShardError: an entry is damaged; names file, entry and field.
        """
        steps = range(first_step, last_step)
        for step, rows in zip(steps, self._rows(steps), strict=True):
            a, b = map_tensors(rows.a, self._move), map_tensors(rows.b, self._move)
            ids, items, labels = (self._move(x) for x in (rows.ids, rows.items, rows.labels))
            yield PairBatch(step, ids, self._entries, a, b, items, labels)

    def _rows(self, steps: range) -> Iterator[_Rows]:
        if self._workers == 0:
            yield from (self._steps.load(step) for step in steps)
            return
        for rows in self._loader(steps):
            if isinstance(rows, UserError):
                raise rows
            yield rows

    def _loader(self, steps: range) -> DataLoader[Any]:
        return DataLoader(
            self._steps,
            batch_size=None,
            sampler=steps,
            num_workers=self._workers,
            prefetch_factor=self._prefetch,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_ignore_job_signals,
            # its own: the loader draws a seed, and training's random state must not move
            generator=torch.Generator(),
        )

    def _move(self, rows: Tensor) -> Tensor:
        if self._device.type == "cuda" and not rows.is_pinned():
            rows = rows.pin_memory()
        rows = rows.to(self._device, non_blocking=True)
        return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows  # after the transfer

    def close(self) -> None:
        """Close shard files. Loader processes end with the iterator that started them."""
        self._steps.reader.close()


def open_stream(
    manifest: Manifest,
    split: str,
    data: DataSettings,
    plan: BatchPlan,
    *,
    seed: int,
    rank: int,
    device: torch.device | str = "cpu",
    tokenizers: Tokenizers = NO_TOKENIZERS,
) -> PairStream:
    """A rank's stream of pairs of the fields `data.a` and `data.b`; `plan` comes from `plan_batches`.

    With `data.clips`, entries are whole videos and one of the modalities is cut from their features. Fields
    of word ids arrive as `Words`, gathered where the batch is read; images as pixels (b, 3, S, S) uint8,
    decoded there by `data.images`; texts as `Tokens` of the encoders' `tokenizers`.

    Which pairs a global step holds depends on the split, `seed`, the plan's entries, pairs and lanes,
    `data.clips` and the two shuffle settings; never on world size or on how the data are read. With
    `data.cache = memory` a batch is one gather in this process and no loader process is started, unless
    images are to be decoded: then loader processes share the encoded bytes.

    Raises:
        UserError: no such split or field, or a set that `data.clips` does not fit. ShardError: as
        `open_reader`.
    """
    index = manifest.split(split)
    maker = pair_maker(manifest, data.a, data.b, seed, data.clips, data.images, tokenizers)
    decodes = any(manifest.field(name).kind == "image" for name in maker.fields)
    in_memory = data.cache == "memory"
    workers = data.workers if decodes or not in_memory else 0
    full = index.bytes < data.full_shuffle_below
    resident = 1 if in_memory else resident_shards(index, plan, full, data.shuffle_block)
    reader = open_reader(manifest, split, maker.fields, data.reading, data.cache, resident)
    if data.reading == "stream" and not in_memory:
        size = resident * max(shard.bytes for shard in index.record.shards) * max(workers, 1)
        logger.info("split %s: streaming, up to %d shards, %.2f GB in memory", split, resident, size / 1e9)
    steps = _Steps(reader, maker, plan, seed, rank, (data.full_shuffle_below, data.shuffle_block))
    return PairStream(steps, rank, torch.device(device), workers, data.prefetch)


def resident_shards(split: SplitIndex, plan: BatchPlan, full_shuffle: bool, shuffle_block: int) -> int:
    """Shards that streaming must hold so that none is read twice within a block: every lane is at a
    place of its own in the epoch, and a block reaches over one shard more than it fills. A split that is
    permuted as a whole needs all of them: lower `full_shuffle_below` where memory is short.
    """
    shards = len(split.record.shards)
    if full_shuffle:
        return shards
    smallest = max(1, min(split.shard_entries[:-1], default=len(split)))
    block = -(-shuffle_block // smallest) + 1
    return min(shards, block * (plan.lanes // plan.world_size))


class _Steps(Dataset[Any]):
    """The rank's share of each global step, by step: what a loader process works on."""

    def __init__(
        self,
        reader: EntryReader,
        maker: PairMaker,
        plan: BatchPlan,
        seed: int,
        rank: int,
        shuffle: tuple[int, int],
    ) -> None:
        """`shuffle`: `full_shuffle_below` and `shuffle_block` of the settings."""
        self.reader = reader
        self.plan = plan
        self._maker = maker
        self._seed = seed
        self._rank = rank
        self._shuffle = shuffle
        self._steps_per_epoch = steps_per_epoch(len(reader.split), plan)
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __getitem__(self, step: int) -> _Rows | UserError:
        """As `load`; an error is handed over as a value, since a loader process would wrap it in a trace."""
        try:
            return self.load(step)
        except UserError as error:
            return error

    def load(self, step: int) -> _Rows:
        """The rank's pairs of a global step."""
        epoch, step_in_epoch = divmod(step, self._steps_per_epoch)
        indices = batch_entries(self._epoch_order(epoch), step_in_epoch, self.plan, self._rank)
        pairs = self.plan.pairs_per_entry
        made = self._maker.make(self.reader, indices, epoch, pairs)
        ids = np.repeat(indices, pairs)
        items = ids + made.items * _ENTRIES
        labels = self.reader.split.labels[ids]
        id_rows, item_rows, label_rows = (torch.from_numpy(x) for x in (ids, items, labels))
        return _Rows(id_rows, item_rows, label_rows, made.a, made.b)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            split = self.reader.split
            order = epoch_order(split.shard_entries, split.bytes, self._seed, epoch, *self._shuffle)
            self._order = (epoch, order)
        return self._order[1]


def _ignore_job_signals(_worker: int) -> None:
    """The scheduler signals every process of a job; the training process decides what follows."""
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
