"""Pairs of this rank, step after step, from any step on."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from swamp_dist.config import DataSettings
from swamp_dist.data.blend import Blend, BlendedSplit, SetOrder, one_set, set_orders
from swamp_dist.data.field_inputs import NO_TOKENIZERS, Tokenizers
from swamp_dist.data.join_inputs import join_inputs, join_rows
from swamp_dist.data.lanes import steps_per_epoch
from swamp_dist.data.loading_memory import kept_of, lanes_read, resident_shards
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.pairs import PairMaker, pair_maker
from swamp_dist.data.reader import EntryReader, open_reader
from swamp_dist.data.worker_end import context_that_kills, end_after, end_with
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
    negatives: Inputs | None = None
    negative_labels: Tensor | None = None


class PairStream:
    """Batches of one rank by global step. Made by `open_stream` or `open_blended_stream`."""

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
    def blend(self) -> Blend:
        """The sets that are read; `blend.keys(batch.ids)` names a batch's entries."""
        return self._steps.blend

    @property
    def steps_per_epoch(self) -> int:
        """floor(N / B), both in entries, N those of all sets; the same on every rank."""
        return steps_per_epoch(len(self.blend), self.plan)

    def shares_drawn(self, steps: int) -> dict[str, float]:
        """Share of the entries of the first `steps` batches by set; {} where no blend is stated."""
        return self.blend.shares_drawn(steps * self.plan.entries)

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
            negatives, theirs = rows.negatives, rows.negative_labels
            negatives = None if negatives is None else map_tensors(negatives, self._move)
            theirs = None if theirs is None else self._move(theirs)
            yield PairBatch(step, ids, self._entries, a, b, items, labels, negatives, theirs)

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
            worker_init_fn=_begin_worker,
            multiprocessing_context=context_that_kills(),  # they ignore the SIGTERM by which Python ends them
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
        for part in self._steps.parts:
            part.close()


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
    """A rank's stream of pairs of one split of one set, whatever `data.blend` says.

    Raises:
        UserError, ShardError: as `open_blended_stream`, or there is no such split.
    """
    alone = one_set(manifest, split)
    return open_blended_stream(alone, data, plan, seed=seed, rank=rank, device=device, tokenizers=tokenizers)


def open_blended_stream(
    blend: Blend,
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

    With `data.partners` entries are anchors; b and the negatives are drawn by class from another split.

    Which pairs a global step holds depends on the sets, their shares, `seed`, the plan's entries, pairs and
    lanes, `data.clips`, `data.partners` and the two shuffle settings; never on world size or on how the data
    are read. With `data.cache = memory` a batch is one gather in this process and no loader process is
    started, unless images are to be decoded: then loader processes share the encoded bytes.

    Raises:
        UserError: no such field, a set that `data.clips` does not fit or that is too small for its share.
        ShardError: as `open_reader`.
    """
    orders = set_orders(blend, data, plan, seed)
    for kept in kept_of(blend, data, plan):
        if kept.shards:
            message = "%s: streaming, up to %d shards, %.2f GB in memory"
            logger.info(message, kept.name, kept.shards, kept.bytes / 1e9)
    parts = [
        _open_part(each, blend, order, data, plan, tokenizers)
        for each, order in zip(blend.sets, orders, strict=True)
    ]
    names = {*parts[0].reader.fields, *(() if data.partners is None else (data.b,))}
    fields = [each.manifest.field(name) for each in blend.sets for name in names]
    decodes = any(field.kind == "image" for field in fields)
    workers = data.workers if decodes or data.cache == "none" else 0
    return PairStream(_Steps(blend, parts, plan, rank), rank, torch.device(device), workers, data.prefetch)


def _open_part(
    each: BlendedSplit,
    blend: Blend,
    order: SetOrder,
    data: DataSettings,
    plan: BatchPlan,
    tokenizers: Tokenizers,
) -> _Part:
    manifest, in_memory = each.manifest, data.cache == "memory"
    maker = pair_maker(manifest, data, order.seed, tokenizers)
    lanes = lanes_read(order.plan.lanes, plan.world_size, is_alone=len(blend.sets) == 1)
    full = each.split.bytes < data.full_shuffle_below
    resident = 1 if in_memory else resident_shards(each.split, lanes, full, data.shuffle_block)
    reader = open_reader(manifest, each.split.name, maker.fields, data.reading, data.cache, resident)
    return _Part(reader, maker, order, blend.first_ids[each.number], blend.set_labels(each.number))


class _Part:
    """One set of the blend, as a loader process reads it."""

    def __init__(
        self, reader: EntryReader, maker: PairMaker, order: SetOrder, first_id: int, labels: np.ndarray
    ) -> None:
        self.reader = reader
        self._maker = maker
        self._order = order
        self._first_id = first_id
        self._labels = labels
        self._newest: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def load(self, step: int, first: int, count: int) -> _Rows:
        """The pairs of the set's entries first .. first + count - 1 of a global step."""
        epoch, pairs = self._order.epoch(step), self._order.plan.pairs_per_entry
        indices = self._order.entries(step, self._epoch_order(epoch))[first : first + count]
        made = self._maker.make(self.reader, indices, epoch, pairs)
        rows = np.repeat(indices, pairs)
        ids = rows + self._first_id
        items, labels = ids + made.items * _ENTRIES, self._labels[rows]
        id_rows, item_rows, label_rows = (torch.from_numpy(x) for x in (ids, items, labels))
        theirs = None if made.negative_labels is None else torch.from_numpy(made.negative_labels)
        return _Rows(id_rows, item_rows, label_rows, made.a, made.b, made.negatives, theirs)

    def close(self) -> None:
        """Close shard files."""
        self.reader.close()
        self._maker.close()

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._newest[0] != epoch:
            self._newest = (epoch, self._order.order(epoch))
        return self._newest[1]


class _Steps(Dataset[Any]):
    """The rank's share of each global step, by step: what a loader process works on."""

    def __init__(self, blend: Blend, parts: list[_Part], plan: BatchPlan, rank: int) -> None:
        self.blend = blend
        self.parts = parts
        self.plan = plan
        self._rank = rank

    def __getitem__(self, step: int) -> _Rows | UserError:
        """As `load`; an error is handed over as a value, since a loader process would wrap it in a trace."""
        try:
            return self.load(step)
        except UserError as error:
            return error

    def load(self, step: int) -> _Rows:
        """The rank's pairs of a global step, in the order of the slots."""
        slots, local, pairs = self.blend.slots, self.plan.local_entries, self.plan.pairs_per_entry
        begin = step * self.plan.entries
        first = begin + self._rank * local
        sets = slots.sets(first, first + local)
        given = slots.drawn(first) - slots.drawn(begin)  # of this batch, to the ranks before this one
        loaded, places = [], []
        for number, part in enumerate(self.parts):
            mine = np.flatnonzero(sets == number)
            if len(mine):
                loaded.append(part.load(step, int(given[number]), len(mine)))
                places.append(torch.from_numpy(mine[:, None] * pairs + np.arange(pairs)).flatten())
        if len(loaded) == 1:
            return loaded[0]
        ids, items, labels = (join_rows(column, places) for column in list(zip(*loaded, strict=True))[:3])
        a, b = (join_inputs(column, places) for column in list(zip(*loaded, strict=True))[3:5])
        return _Rows(ids, items, labels, a, b)


def _begin_worker(_worker: int) -> None:
    """End with the training process. The scheduler signals every process of a job, which are left to it."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid == os.getppid():
        end_with(parent.pid)
    elif parent is not None:  # a fork server started this one, and lives on with it
        end_after(parent)
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
