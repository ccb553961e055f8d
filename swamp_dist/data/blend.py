"""The shard sets that a training draws from, each with its share; without `data.blend` there is one.

What a set gives to each step is a pure function of the step. Of B entries of a batch, set k gives n_k, which
differs by little from step to step, and never more than B_k. An epoch of the set is floor(N_k / B_k) steps of
the order that a training over this set alone with batches of B_k would have: step by step, the first n_k of
that step's B_k entries. So no entry comes twice in an epoch of its set, nor in a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import gcd
from pathlib import Path

import numpy as np

from swamp_dist.config import DataSettings
from swamp_dist.data.inputs import check_clips
from swamp_dist.data.lanes import batch_entries, epoch_order, group_classes, random_words
from swamp_dist.data.manifest import Manifest, SplitIndex, load_manifest
from swamp_dist.data.shares import Slots
from swamp_dist.errors import UserError
from swamp_dist.records import BatchPlan


@dataclass(frozen=True)
class BlendedSplit:
    """One set of a blend: the split that training draws from, and its share."""

    name: str
    manifest: Manifest
    split: SplitIndex
    share: Fraction
    number: int
    """Place among the sets of the blend, in the order of their names."""

    def seed(self, seed: int) -> int:
        """The seed of this set in a training of `seed`: sets of equal size are not permuted alike."""
        return seed if self.number == 0 else int(random_words(1, "set", seed, self.number)[0])


@dataclass(frozen=True)
class Blend:
    """All sets that a training draws from. Ids of entries and classes go on from set to set."""

    sets: tuple[BlendedSplit, ...]
    is_stated: bool = True
    """Whether `data.blend` names the sets; else there is one, that of `data.shards`."""

    def __len__(self) -> int:
        """Entries of all sets."""
        return sum(len(each.split) for each in self.sets)

    @cached_property
    def first_ids(self) -> list[int]:
        """Id of the first entry of each set, and one past the last of all."""
        return [0, *np.cumsum([len(each.split) for each in self.sets]).tolist()]

    @cached_property
    def first_classes(self) -> list[int]:
        """Number of the first class of each set: classes of different sets are different classes."""
        return [0, *np.cumsum([each.manifest.classes for each in self.sets]).tolist()][:-1]

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64 class of every entry by its id, -1 where it has none."""
        return np.concatenate([self.set_labels(k) for k in range(len(self.sets))])

    def set_labels(self, number: int) -> np.ndarray:
        """(N_k,) int64 classes of a set's entries, as the blend counts them."""
        labels = self.sets[number].split.labels
        return np.where(labels < 0, labels, labels + self.first_classes[number])

    def keys(self, ids: Iterable[int] | np.ndarray) -> list[str]:
        """Keys of entries by id; of a stated blend, SET:KEY."""
        return [self._key(int(i)) for i in ids]

    def _key(self, entry: int) -> str:
        number = int(np.searchsorted(self.first_ids, entry, side="right")) - 1
        each = self.sets[number]
        key = each.split.keys([entry - self.first_ids[number]])[0]
        return f"{each.name}:{key}" if self.is_stated else key

    @property
    def hashes(self) -> dict[str, str]:
        """Hash of every set's manifest by name; {} without `data.blend`."""
        return {each.name: each.manifest.hash for each in self.sets} if self.is_stated else {}

    @cached_property
    def slots(self) -> Slots:
        """Which set gives the entry of each slot."""
        return Slots([each.share for each in self.sets])

    def shares_drawn(self, entries: int) -> dict[str, float]:
        """Share of the first `entries` entries that each set gave; {} without `data.blend`."""
        if not self.is_stated or entries == 0:
            return {}
        drawn = self.slots.drawn(entries).tolist()
        return {each.name: count / entries for each, count in zip(self.sets, drawn, strict=True)}


@dataclass(frozen=True)
class SetOrder:
    """The order of one set: which of its entries a step may take."""

    split: SplitIndex
    plan: BatchPlan
    """Of the set alone: B_k entries, in as many lanes as divide both it and the batch's lanes."""
    seed: int
    full_shuffle_below: int
    shuffle_block: int
    class_group: int = 1
    """Entries of one class that a batch takes at a time."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch of the set: floor(N_k / B_k)."""
        return len(self.split) // self.plan.entries

    def epoch(self, step: int) -> int:
        """The epoch of the set that a step of the training falls into."""
        return step // self.steps_per_epoch

    def entries(self, step: int, order: np.ndarray) -> np.ndarray:
        """(B_k,) int64: the set's entries of a step; `order`: that of the step's epoch."""
        return batch_entries(order, step % self.steps_per_epoch, self.plan, 0)

    def order(self, epoch: int) -> np.ndarray:
        """(N_k,) int64: all entries in the order of an epoch of the set."""
        split, shuffle = self.split, (self.full_shuffle_below, self.shuffle_block)
        order = epoch_order(split.shard_entries, split.bytes, self.seed, epoch, *shuffle)
        if self.class_group == 1:
            return order
        return group_classes(order, split.labels, self.class_group, self.plan)


def one_set(manifest: Manifest, split: str) -> Blend:
    """Training on one split of one set.

    Raises:
        UserError: no such split.
    """
    return Blend((BlendedSplit("shards", manifest, manifest.split(split), Fraction(1), 0),), is_stated=False)


def open_blend(data: DataSettings, own: Manifest) -> Blend:
    """The sets that training draws from.

    Args:
        own: the set of `data.shards`.

    Raises:
        UserError: a set or its split is not there, or no split is named.
    """
    sets = []
    for number, (name, each) in enumerate(data.training_sets.items()):
        split = each.split or data.train_split
        key = "data.train_split" if data.blend is None else f"data.blend.{name}.split"
        if split is None:
            raise UserError(f"{key} is null, but the stage trains: name the split to train on")
        manifest = own if each.shards == own.folder else load_manifest(each.shards, each.recipe)
        sets.append(BlendedSplit(name, manifest, manifest.split(split), each.exact_share, number))
    return Blend(tuple(sets), is_stated=data.blend is not None)


def set_orders(blend: Blend, data: DataSettings, plan: BatchPlan, seed: int) -> list[SetOrder]:
    """The order of every set in batches of `plan`.

    Raises:
        UserError: a set has fewer entries than a batch takes of it, or does not fit `data.class_group`.
    """
    orders = []
    for each, most in zip(blend.sets, blend.slots.most(plan.entries), strict=True):
        if most > len(each.split):
            raise UserError(
                f"data.blend.{each.name}: a batch of data.entries = {plan.entries} takes up to {most} of its "
                f"entries, but split {each.split.name!r} of {each.manifest.folder} has {len(each.split)}, "
                "and no batch holds an entry twice.\n"
                f"Fix: lower data.blend.{each.name}.share (now {float(each.share):g}) or data.entries"
            )
        alone = BatchPlan(most, plan.pairs_per_entry, gcd(plan.lanes, most), 1)
        _check_class_group(each, data)
        shuffle = data.full_shuffle_below, data.shuffle_block
        orders.append(SetOrder(each.split, alone, each.seed(seed), *shuffle, data.class_group))
    return orders


def _check_class_group(each: BlendedSplit, data: DataSettings) -> None:
    """Refuse groups of a class in a split without classes, or in one that is read in blocks."""
    if data.class_group == 1:
        return
    named, split = f"data.class_group = {data.class_group}", each.split
    if not (split.labels >= 0).any():
        raise UserError(
            f"{named}: no entry of split {split.name!r} of {each.manifest.folder} has a class label.\n"
            "Build shards from a source that gives labels, or set data.class_group: 1"
        )
    if split.bytes >= data.full_shuffle_below:
        raise UserError(
            f"{named} takes the entries of a class from everywhere in the split, but split {split.name!r} "
            f"has {split.bytes:,} bytes and those of data.full_shuffle_below = {data.full_shuffle_below:,} "
            "or more are read in blocks.\nRaise data.full_shuffle_below where the storage serves reads at "
            "random, or set data.class_group: 1"
        )


def blend_problems(data: DataSettings, own: Manifest) -> Iterator[str]:
    """What is wrong with the sets of a blend, by themselves and beside each other; nothing without one."""
    if data.blend is None:
        return
    try:
        blend = open_blend(data, own)
    except UserError as error:
        yield f"data.blend: {error}"
        return
    for each in blend.sets:
        try:
            _check_fields(each.manifest, data)
        except UserError as error:
            yield f"data.blend.{each.name}: {error}"
            return
    first = blend.sets[0]
    others = [(f"data.blend.{each.name}", each.manifest) for each in blend.sets[1:]]
    if own.folder not in [each.manifest.folder for each in blend.sets]:
        others.append(("data.shards", own))
    for name, manifest in others:
        yield from _differences(data, f"data.blend.{first.name}", first.manifest, name, manifest)


def _check_fields(manifest: Manifest, data: DataSettings) -> None:
    if data.clips is not None:
        check_clips(manifest, data.a, data.b, data.clips)
        return
    manifest.field(data.a), manifest.field(data.b)


def _differences(
    data: DataSettings, name: str, manifest: Manifest, other_name: str, other: Manifest
) -> Iterator[str]:
    """Fields of a batch that two sets hold otherwise, and other word vectors."""
    both = (name, manifest.folder), (other_name, other.folder)
    for field in _fields(data):
        if field not in other.fields:
            continue  # of data.shards, and told by its own checks
        specs = manifest.field(field), other.field(field)
        one, two = (spec.model_copy(update={"items": False}) for spec in specs)
        if one != two:
            yield _disagreement(both, f"field {field!r}", f"{specs[0]}", f"{specs[1]}")
    sources = [_vectors(each, data) for each in (manifest, other)]
    if sources[0] != sources[1]:
        told = ["no words" if source is None else source for source in sources]
        yield _disagreement(both, "word vectors (sha256 of their file)", *told)


def _fields(data: DataSettings) -> list[str]:
    if data.clips is None:
        return [data.a, data.b]
    return [data.a if data.clips.on == "b" else data.b, *data.clips.parts]


def _vectors(manifest: Manifest, data: DataSettings) -> str | None:
    words = manifest.record.words
    return words.source_sha256 if words is not None and {data.a, data.b} & set(words.fields) else None


def _disagreement(both: tuple[tuple[str, Path], tuple[str, Path]], what: str, one: str, two: str) -> str:
    (name, folder), (other_name, other) = both
    return (
        f"{what}: {name} ({folder}) has {one}, {other_name} ({other}) has {two}; the encoders take only one "
        "of them.\n"
        "Fix: build the sets alike, or leave one out of the blend"
    )
