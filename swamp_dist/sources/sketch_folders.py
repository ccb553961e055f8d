"""Sketch sets in folders: SKETCHES/CLASS/*.png and PHOTOS/CLASS/*.jpg.

A folder is a class, whatever its name; files beside the folders of classes are none (QuickDraw-Extended has a
class_labels.txt there), nor are names that begin with a dot. In the folder of a class, files that are no
JPEG, PNG or WebP by their ending are passed over and counted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from swamp_dist.config import SketchFolderSettings
from swamp_dist.errors import UserError
from swamp_dist.records import RawSplit
from swamp_dist.sources.class_names import normal_name
from swamp_dist.sources.class_splits import UNSEEN, divide, read_class_list
from swamp_dist.sources.raw_files import check_files
from swamp_dist.sources.sketch_sets import ClassImages, complete_classes, sketch_splits

logger = logging.getLogger(__name__)

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def open_folders(
    settings: SketchFolderSettings, photos: Sequence[str], validation: int | None
) -> Mapping[str, RawSplit]:
    """The splits of a set in folders; images are read one by one.

    Args:
        settings: of the set.
        photos: folders of photos below `settings.folder`; those of one class are joined.
        validation: as for `divide`.

    Raises:
        UserError: a folder is absent, has no class or is named twice, two classes have one name, a class is
            incomplete, an unseen class is not there, or a list cannot be read.
    """
    check_files(settings.files(), settings.sha256)
    _check_folders(settings, photos)
    sketches = class_files(settings.folder, settings.sketches, "source.sketches")
    found = [class_files(settings.folder, each, "source.photos") for each in photos]
    classes = {*sketches, *(name for each in found for name in each)}
    images = {
        name: ClassImages(sketches.get(name, []), [path for each in found for path in each.get(name, [])])
        for name in classes
    }
    unseen = unseen_classes(settings)
    complete = complete_classes(images, settings.incomplete, unseen)
    order = () if settings.order is None else read_class_list(settings.order)
    parts = divide(list(complete), unseen, validation, settings.validation_seed, order)
    return sketch_splits(settings.folder, complete, parts)


def _check_folders(settings: SketchFolderSettings, photos: Sequence[str]) -> None:
    """Refuse one folder for sketches and photos, or twice for photos, whatever path leads to it."""
    found: set[Path] = set()
    for below in (settings.sketches, *photos):
        folder = (settings.folder / below).resolve()
        if folder in found:
            sketches = (settings.folder / settings.sketches).resolve()
            what = "of the sketches" if folder == sketches else "of other photos"
            raise UserError(
                f"source: {settings.folder / below} is named as a folder of photos, and is that {what} too.\n"
                "Fix: name each folder once (source.sketches, photos and original_photos)."
            )
        found.add(folder)


def unseen_classes(settings: SketchFolderSettings) -> tuple[str, ...]:
    """The unseen classes of the recipe, as normal names.

    Raises:
        UserError: their file cannot be read.
    """
    if settings.split_file is not None:
        return read_class_list(settings.split_file)
    assert settings.split is not None, "the settings ask for one of them"
    return UNSEEN[settings.split]


def class_files(root: Path, below: str, setting: str) -> dict[str, list[str]]:
    """Paths, below `root`, of the images of every class in the folder ROOT/BELOW, sorted.

    Raises:
        UserError: the folder is absent or has no class, or two classes have one normal name.
    """
    folder = root / below
    if not folder.is_dir():
        raise UserError(f"{setting}: no folder {folder}; expected one folder per class in it")
    found: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    passed = 0
    for entry in sorted(os.scandir(folder), key=lambda each: each.name):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        name = normal_name(entry.name)
        if name in found:
            raise UserError(
                f"{setting}: {folder} has two folders of class {name}: {spelled[name]}, {entry.name}"
            )
        files = sorted(os.listdir(entry.path))
        images = [file for file in files if file.lower().endswith(IMAGE_ENDINGS) and not file.startswith(".")]
        passed += len(files) - len(images)
        found[name] = [f"{below}/{entry.name}/{file}" for file in images]
        spelled[name] = entry.name
    if not found:
        raise UserError(f"{setting}: {folder} has no folder in it; expected one per class")
    if passed:
        logger.warning("%s: passed over %d files that are no JPEG, PNG or WebP", folder, passed)
    return found
