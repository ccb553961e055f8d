"""Near-twins joined into concepts, and splits that keep every concept on one side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from swamp_dist.errors import UserError


def similar_pairs(rows: np.ndarray, threshold: float, centre: bool) -> np.ndarray:
    """Pairs i < j whose rows have a cosine above `threshold`; of centred rows it is the correlation.

    rows (N, D) -> (P, 2) int64. Constant rows are similar to nothing.
    """
    rows = rows.astype(np.float64)
    if centre:
        rows = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return np.argwhere(np.triu(unit @ unit.T, k=1) > threshold)


def join(count: int, pairs: np.ndarray) -> np.ndarray:
    """Concept number of each of `count` items: items linked by a chain of pairs share one. (N,) int64,
    numbered from 0 by first appearance.
    """
    parent = np.arange(count)
    for i, j in pairs:
        a, b = _root(parent, i), _root(parent, j)
        parent[max(a, b)] = min(a, b)
    roots = np.array([_root(parent, i) for i in range(count)], dtype=np.int64)
    return np.unique(roots, return_inverse=True)[1]


def _root(parent: np.ndarray, item: int) -> int:
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


def split(
    concepts: np.ndarray, test_items: int, validation_items: int, pretrain_share: float, seed: int
) -> Mapping[str, np.ndarray]:
    """Sorted item indices of `pretrain`, `finetune`, `train` (their union), `validation` and `test`.

    No concept is on two sides. Test is drawn first, so it depends on nothing but `seed` and
    `test_items`; then validation; both take one item a concept and drop its twins, so that they are
    alike in difficulty and share nothing with training. `pretrain_share` is a share of the concepts
    left for training. Raises UserError when the concepts do not suffice.
    """
    rng = np.random.default_rng(seed)
    order, draw = _drawing_order(concepts, rng.permutation(len(concepts))), rng.permutation(len(concepts))
    held_out = test_items + validation_items
    if held_out + 2 > len(order):
        raise UserError(
            f"{len(concepts)} items form {len(order)} concepts, too few for test_items = {test_items} and "
            f"validation_items = {validation_items} (one concept each) and any training.\n"
            "Fix: lower test_items or validation_items in the shard recipe."
        )
    training = order[held_out:]
    cut = round(pretrain_share * len(training))
    pretrain, finetune = (_members(concepts, chosen) for chosen in (training[:cut], training[cut:]))
    return {
        "pretrain": pretrain,
        "finetune": finetune,
        "train": np.sort(np.concatenate([pretrain, finetune])),
        "validation": _one_each(concepts, order[test_items:held_out], draw),
        "test": _one_each(concepts, order[:test_items], draw),
    }


def _members(concepts: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.isin(concepts, chosen))


def _drawing_order(concepts: np.ndarray, priority: np.ndarray) -> np.ndarray:
    """Concepts by the priority of their first item. Priorities belong to items, so that two concepts
    that merge because of another machine's rounding do not reshuffle all others.
    """
    first_items = np.unique(concepts, return_index=True)[1]
    return np.argsort(priority[first_items])


def _one_each(concepts: np.ndarray, chosen: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """The item of each chosen concept that comes first in `draw`, a random order of all items."""
    return np.sort([min(np.flatnonzero(concepts == concept), key=draw.__getitem__) for concept in chosen])
