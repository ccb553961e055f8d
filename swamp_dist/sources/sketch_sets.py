"""Sketches and photos by class, as the splits of a shard set: SPLIT has sketches, SPLIT_photos photos.

Sketches of a split are queries, its photos the gallery. Classes have one numbering over all splits, in
alphabetical order.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swamp_dist.errors import UserError
from swamp_dist.records import RawSplit, Sample
from swamp_dist.sources.class_splits import ClassSplit
from swamp_dist.sources.entry_keys import entry_key
from swamp_dist.sources.image_files import read_image

logger = logging.getLogger(__name__)

IMAGE = "image"
"""Field of every entry, of sketches and of photos."""
PHOTOS = "_photos"
"""Ending of the split with the photos of another one."""


@dataclass(frozen=True)
class ClassImages:
    """The images of one class: paths below the root."""

    sketches: Sequence[str]
    photos: Sequence[str]


def complete_classes(
    images: Mapping[str, ClassImages], incomplete: str, unseen: Collection[str]
) -> dict[str, ClassImages]:
    """The classes that have both sketches and photos, by alphabet.

    Args:
        images: of every class.
        incomplete: `refuse` or `drop`, of seen classes.
        unseen: classes that are never left out: figures over fewer would stand under the split's name.

    Raises:
        UserError: an unseen class or, with `refuse`, any has none of one of them; all such classes are named.
            Or none has both.
    """
    lacking = {
        name: f"{name} (no {'photos' if each.sketches else 'sketches'})"
        for name, each in sorted(images.items())
        if not (each.sketches and each.photos)
    }
    kept_always = [name for name in lacking if name in unseen]
    if lacking and (incomplete == "refuse" or kept_always):
        fix = "complete them, or leave them out with source.incomplete: drop."
        if kept_always:
            fix = (
                f"complete them; unseen classes are never left out ({', '.join(kept_always)}): a test over "
                "fewer classes does not compare."
            )
        raise UserError(
            f"{len(lacking)} of {len(images)} classes are incomplete: {', '.join(lacking.values())}.\n"
            f"Fix: {fix}"
        )
    if lacking:
        logger.warning("left out %d incomplete classes: %s", len(lacking), ", ".join(lacking.values()))
    kept = {name: images[name] for name in sorted(images) if name not in lacking}
    if not kept:
        raise UserError("no class has both sketches and photos; see source.sketches and source.photos")
    return kept


def sketch_splits(root: Path, images: Mapping[str, ClassImages], parts: ClassSplit) -> Mapping[str, RawSplit]:
    """The splits in couples: train, train_photos, validation, validation_photos, test, test_photos.

    Args:
        root: folder of all paths.
        images: of every class.
        parts: classes of every split.
    """
    names = tuple(sorted(images))
    label_of = {name: label for label, name in enumerate(names)}
    splits: dict[str, RawSplit] = {}
    for split, classes in parts.classes.items():
        for ending, side in (("", "sketches"), (PHOTOS, "photos")):
            files = [(path, label_of[name]) for name in classes for path in getattr(images[name], side)]
            splits[split + ending] = _raw_split(root, files, names)
    return splits


def _raw_split(root: Path, files: Sequence[tuple[str, int]], names: Sequence[str]) -> RawSplit:
    """Keys begin with the class: names of files may repeat from class to class. In a class they repeat where
    two folders hold a photo, as those of Sketchy hold the originals: the second has a number."""
    seen: Counter[tuple[int, str]] = Counter()
    keys = []
    for path, label in files:
        stem = Path(path).stem
        keys.append(f"{label:03d}_{entry_key(stem, seen[label, stem] or None)}")
        seen[label, stem] += 1

    def read(number: int) -> Sample:
        path, label = files[number]
        image = read_image(root, path, keys[number])
        return Sample(keys[number], {IMAGE: image}, label, {"image": path, "label": names[label]})

    return RawSplit(keys, read, class_names=names)
