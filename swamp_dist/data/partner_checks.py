"""What keeps pairs from being drawn by class, told from settings and manifest before a rank starts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from swamp_dist.config import DataSettings
from swamp_dist.data.class_vectors import class_names, class_vectors
from swamp_dist.data.manifest import Manifest, SplitIndex
from swamp_dist.errors import UserError

_NAMED = 5


def partner_problems(data: DataSettings, manifest: Manifest, tested: Collection[str]) -> Iterator[str]:
    """Everything wrong with `data.partners`; nothing where pairs are not drawn by class.

    Args:
        tested: splits that `evaluate` reports on.
    """
    asked = data.partners
    if asked is None or data.train_split is None:
        return  # a training without a split is told elsewhere
    if asked.split in tested:
        yield (
            f"data.partners.split = {asked.split}: evaluate reports on this split, so its figures would be "
            "of entries that were trained on.\nFix: name another split, for example that of the photos of "
            "training"
        )
    try:
        anchors, partners = manifest.split(data.train_split), manifest.split(asked.split)
    except UserError as error:
        yield f"data.partners: {error}"
        return
    unlabelled = [_unlabelled(split, manifest) for split in (anchors, partners) if (split.labels < 0).any()]
    yield from unlabelled
    if unlabelled:
        return
    counts = np.bincount(partners.labels, minlength=manifest.classes)
    absent = [label for label in np.unique(anchors.labels).tolist() if counts[label] == 0]
    if absent:
        yield _absent(manifest, anchors, partners, absent)
    if asked.negatives == "none":
        return
    if np.count_nonzero(counts) < 2:
        yield (
            f"data.partners.negatives = {asked.negatives}: a negative is of another class, and split "
            f"{partners.name!r} of {manifest.folder} has one class alone.\n"
            "Fix: data.partners.negatives = none, or a split with several classes"
        )
    if asked.negatives == "near":
        try:
            name_vectors(manifest, data)
        except UserError as error:
            yield str(error)


def name_vectors(manifest: Manifest, data: DataSettings) -> np.ndarray:
    """(classes, E): vectors of the classes' names, for `negatives = near`.

    Raises:
        UserError: the set has none.
    """
    vectors = class_vectors(manifest)
    if vectors is None:
        raise UserError(
            f"data.partners.negatives = near takes vectors of the classes' names, and {manifest.folder} has "
            "none.\nFix: data.partners.negatives = uniform, or a set that was built with them"
        )
    return vectors


def class_list(manifest: Manifest, labels: Sequence[int], anchors: np.ndarray | None = None) -> str:
    """Classes by name where they have one, the first few of many; with `anchors`, labels of entries, each
    with how many it has there."""
    names = class_names(manifest)
    shown = []
    for label in labels[:_NAMED]:
        name = f"class {label}" if names is None else f"{names[label]!r} (class {label})"
        shown.append(name if anchors is None else f"{name} with {int((anchors == label).sum()):,} entries")
    return ", ".join(shown) + (", ..." if len(labels) > _NAMED else "")


def _unlabelled(split: SplitIndex, manifest: Manifest) -> str:
    count = int((split.labels < 0).sum())
    return (
        f"data.partners: {count:,} of {len(split):,} entries of split {split.name!r} in {manifest.folder} "
        "have no class, and partners are drawn by class.\n"
        "Fix: data.partners = null, or a shard set whose entries have classes"
    )


def _absent(manifest: Manifest, anchors: SplitIndex, partners: SplitIndex, absent: list[int]) -> str:
    present = len(np.unique(anchors.labels))
    return (
        f"data.partners.split = {partners.name}: {len(absent)} of {present} classes of split "
        f"{anchors.name!r} in {manifest.folder} have no entry in it ({len(partners):,} entries): "
        f"{class_list(manifest, absent, anchors.labels)}.\n"
        "Fix: name the split that holds their partners, or leave these classes out of the training split"
    )
