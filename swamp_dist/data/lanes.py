"""Which entries meet in which batch: pure functions of seed, epoch and step.

An epoch is one order of the split, rotated, cut into L equal lanes; a step takes the next entries of
every lane. The content of global batch s so depends on neither world size nor loader processes, and
starting at step s is arithmetic. Random numbers are raw 64-bit words of Philox under a stable sort:
the order does not depend on how a numpy version turns words into distributions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from swamp_dist.errors import UserError
from swamp_dist.records import BatchPlan


def random_words(count: int, *key: object) -> np.ndarray:
    """(count,) uint64 random words that depend on nothing but `key` (ints and strings)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    words: np.ndarray = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(count)
    return words


def permutation(count: int, *key: object) -> np.ndarray:
    """(count,) int64 permutation of 0 .. count-1 that depends on nothing but `key`."""
    return np.argsort(random_words(count, *key), kind="stable")


def epoch_order(
    shard_entries: Sequence[int],
    num_bytes: int,
    seed: int,
    epoch: int,
    full_shuffle_below: int,
    shuffle_block: int,
) -> np.ndarray:
    """(N,) int64: the entries of a split in the order of an epoch, rotated.

    A split below `full_shuffle_below` bytes is permuted as a whole. A larger one is permuted shard by
    shard and inside blocks of `shuffle_block` entries, so that neighbours in the order are neighbours
    in the store. The rotation, drawn from (seed, epoch), moves the N mod B entries that an epoch drops.
    """
    count = sum(shard_entries)
    if num_bytes < full_shuffle_below:
        order = permutation(count, "entries", seed, epoch)
    else:
        order = _block_order(shard_entries, seed, epoch, shuffle_block)
    offset = int(random_words(1, "rotation", seed, epoch)[0]) % count
    return np.roll(order, -offset)


def _block_order(shard_entries: Sequence[int], seed: int, epoch: int, block: int) -> np.ndarray:
    ends = np.cumsum(np.asarray(shard_entries, dtype=np.int64))
    shards = permutation(len(shard_entries), "shards", seed, epoch)
    sequence = np.concatenate([np.arange(ends[s] - shard_entries[s], ends[s]) for s in shards])
    words = random_words(len(sequence), "entries", seed, epoch)
    return sequence[np.lexsort((words, np.arange(len(sequence)) // block))]


def group_classes(order: np.ndarray, labels: np.ndarray, group: int, plan: BatchPlan) -> np.ndarray:
    """(N,) int64: an epoch's order, changed so that a batch takes entries of one class `group` at a time.

    The entries of a class are taken in their order, `group` at a time. What is left of each class, fewer
    than `group`, and entries without a class make groups of their own, of several classes. Groups go by the
    place of their first entry and fill one batch after the other, so an epoch still uses an entry at most
    once; the N mod B that it drops are those of the last groups.

    Args:
        order: (N,) entries in the order of an epoch.
        labels: (N,) class of every entry, by its number; -1 where it has none.
        group: entries of a class in a group; divides the batch.
        plan: of the batches that `batch_entries` will cut out.
    """
    groups = _class_groups(order, labels, group)
    grouped = np.concatenate([order[places] for places in groups])
    batches = steps_per_epoch(len(order), plan)
    used = grouped[: batches * plan.entries].reshape(batches, plan.lanes, plan.entries // plan.lanes)
    # `batch_entries` reads lane after lane; the entries of a step are one batch again.
    return np.concatenate([used.transpose(1, 0, 2).reshape(-1), grouped[batches * plan.entries :]])


def _class_groups(order: np.ndarray, labels: np.ndarray, group: int) -> list[np.ndarray]:
    """Places in the order, `group` of one class at a time, then the rest; sorted by their first place."""
    found = labels[order]
    by_class = np.argsort(found, kind="stable")
    starts = np.flatnonzero(np.diff(found[by_class], prepend=-2))
    whole, rest = [], []
    for places in np.split(by_class, starts[1:]):
        full = 0 if found[places[0]] < 0 else len(places) // group * group
        whole += np.split(places[:full], full // group) if full else []
        rest.append(places[full:])
    left = np.sort(np.concatenate(rest))
    whole += [left[i : i + group] for i in range(0, len(left), group)]
    return sorted(whole, key=lambda places: int(places[0]))


def steps_per_epoch(num_entries: int, plan: BatchPlan) -> int:
    """floor(N / B), both in entries: the same for every rank."""
    return num_entries // plan.entries


def batch_entries(order: np.ndarray, step_in_epoch: int, plan: BatchPlan, rank: int) -> np.ndarray:
    """(B/W,) int64: this rank's entries of one step of the epoch, lane-major.

    Rank r owns lanes [rL/W, (r+1)L/W); the ranks' rows one after the other are the global batch.
    """
    steps = steps_per_epoch(len(order), plan)
    lanes = order[: steps * plan.entries].reshape(plan.lanes, steps, plan.entries // plan.lanes)
    share = plan.lanes // plan.world_size
    mine: np.ndarray = lanes[rank * share : (rank + 1) * share, step_in_epoch].reshape(-1)
    return mine


def item_choice(seed: int, epoch: int, key: str, count: int, pairs: int) -> np.ndarray:
    """(pairs,) int64: which of an entry's `count` items its pairs use in this epoch.

    Items are drawn without replacement; where pairs > count the drawn order repeats. It depends on
    the count and not on the field, so two fields with equally many items (a clip and its caption)
    are taken in step; with different counts (five captions, three crops) the draws differ.
    """
    return np.resize(permutation(count, "items", seed, epoch, key), pairs)


def plan_batches(
    entries: int, pairs_per_entry: int, lanes: int, world_size: int, num_entries_in_split: int
) -> BatchPlan:
    """How a global batch of `entries` is laid over lanes and ranks: world size | lanes | entries.

    Raises:
        UserError: the split is empty or smaller than the batch, or a division leaves a rest.
    """
    if num_entries_in_split == 0:
        raise UserError("the training split holds no entries: choose another data.train_split")
    if entries > num_entries_in_split:
        raise UserError(
            f"data.entries = {entries} is more than the {num_entries_in_split} entries of the training "
            f"split: an epoch would have no step. Choose data.entries <= {num_entries_in_split}."
        )
    if entries % lanes:
        raise UserError(
            f"data.lanes = {lanes} does not divide data.entries = {entries}. "
            f"Lanes that do: {_join_numbers(_divisors(entries))}."
        )
    if lanes % world_size:
        raise UserError(_world_message(entries, lanes, world_size))
    return BatchPlan(entries, pairs_per_entry, lanes, world_size)


def _world_message(entries: int, lanes: int, world_size: int) -> str:
    fitting = [n for n in _divisors(entries) if n % world_size == 0]
    other = (
        f"or data.lanes (which changes the sample order): {_join_numbers(fitting)}"
        if fitting
        else f"or a data.entries that {world_size} divides (now {entries})"
    )
    return (
        f"{world_size} ranks do not divide data.lanes = {lanes}, so the batch cannot be shared out evenly.\n"
        f"Choose the number of ranks: {_join_numbers(_divisors(lanes))}; {other}."
    )


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _join_numbers(numbers: list[int]) -> str:
    shown = [str(n) for n in numbers]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:6], "...", *shown[-5:]])
