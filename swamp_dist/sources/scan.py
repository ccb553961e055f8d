"""Flickr30K and MS-COCO as SCAN has them: regions of every image in one array, captions in lines of a text.

The five captions of an image are consecutive lines. Arrays come in two forms: one row per image, or one per
caption, so that an image has five equal rows (dev and test of the public copies). Both are taken; every image
is one entry, `regions` (regions, width) and its captions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swamp_dist.config import ScanSource
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.npy_files import NpyRows
from swamp_dist.records import RawSplit, Sample
from swamp_dist.sources.captions import Caption, kept_texts
from swamp_dist.sources.entry_keys import entry_key, placed_keys
from swamp_dist.sources.raw_files import check_files

REGIONS = "regions"
"""Field of the images."""
UNEQUAL, UNREADABLE = "rows of one image differ", "features unreadable"
"""Kinds of BadEntry raised here."""


@dataclass(frozen=True)
class Images:
    """The images of one split: makes samples one by one."""

    settings: ScanSource
    name: str
    captions: Sequence[str]
    """Of all images in turn, as many of each."""
    rows: NpyRows
    row_step: int
    """Rows of one image: 1, or its captions."""
    keys: Sequence[str]
    """Of the images that are taken, the first ones."""
    ids: Sequence[str]

    def read(self, image: int) -> Sample:
        """Image number `image` of the split; raises BadEntry as `features` and `texts`."""
        texts = self.texts(image)
        return Sample(
            self.keys[image], {REGIONS: self.features(image)}, text={"id": self.ids[image]}, captions=texts
        )

    def features(self, image: int) -> np.ndarray:
        """(regions, width) of the set's type.

        Raises:
            BadEntry: the rows of the image are not equal, or cannot be read.
        """
        key, first = self.keys[image], image * self.row_step
        try:
            regions = self.rows[first]
            last = regions if self.row_step == 1 else self.rows[first + self.row_step - 1]
        except (OSError, ValueError) as error:
            raise BadEntry(key, UNREADABLE, f"{self.rows.path}, row {first}: {error}") from None
        if not np.array_equal(regions, last, equal_nan=True):
            finding = f"rows {first} and {first + self.row_step - 1} should be of one image, and differ"
            raise BadEntry(key, UNEQUAL, f"{self.rows.path}: {finding}")
        with np.errstate(over="ignore"):  # too large for float16: infinite, and refused as such
            return regions.astype(self.settings.dtype)

    def texts(self, image: int) -> tuple[str, ...]:
        """Captions of an image that are kept; raises BadEntry where they are refused."""
        per, path = self.settings.captions_per_image, self.settings.path(self.name, "caps.txt")
        lines = range(image * per, (image + 1) * per)
        found = [Caption(self.captions[line], f"{path}:{line + 1}") for line in lines]
        return kept_texts(found, self.keys[image], self.settings.wordless, found[0].place)

    def all_texts(self) -> Iterator[Sequence[str]]:
        """Captions of every image in turn; none where `read` would refuse them."""
        for image in range(len(self.keys)):
            try:
                yield self.texts(image)
            except BadEntry:
                yield ()


def open_splits(settings: ScanSource) -> Mapping[str, RawSplit]:
    """The splits by name; captions are in memory, features are read image by image.

    Raises:
        UserError: a file is absent or malformed, regions have another width, or the rows of the features are
            neither the images nor the captions in number.
    """
    for path in (settings.path(name, rest) for name in settings.splits for rest in ("caps.txt", "ims.npy")):
        if not path.is_file():
            raise UserError(_absent(path, settings))
    check_files(settings.files(), settings.sha256)
    splits = {}
    for name in settings.splits:
        images = _open_split(settings, name)
        splits[name] = RawSplit(images.keys, images.read, images.all_texts)
    return splits


def item_fields(settings: ScanSource) -> frozenset[str]:
    """No field of the samples has several items; that of the captions, which a build adds, has."""
    return frozenset()


def ragged_fields(settings: ScanSource) -> frozenset[str]:
    """The regions."""
    return frozenset({REGIONS})


def _open_split(settings: ScanSource, name: str) -> Images:
    captions, per = read_lines(settings.path(name, "caps.txt")), settings.captions_per_image
    rows = _open_features(settings, name)
    count, rest = divmod(len(captions), per)
    if rest or not count:
        raise UserError(
            f"{settings.path(name, 'caps.txt')}: {len(captions):,} captions, no multiple of {per}.\n"
            "The captions of an image are consecutive lines, as many for every image: complete the file, or "
            "set source.captions_per_image."
        )
    if len(rows) not in (count, len(captions)):
        raise UserError(
            f"{rows.path}: {len(rows):,} rows, which match neither the {count:,} images nor the "
            f"{len(captions):,} captions of {settings.path(name, 'caps.txt')}.\n"
            "Features and captions are of different splits or sets, or one file was cut: get both from one "
            "place."
        )
    ids = _read_ids(settings, name, count)
    taken = count if name != "dev" or settings.dev_images is None else min(count, settings.dev_images)
    step = 1 if len(rows) == count else per
    return Images(
        settings, name, captions, rows, step, placed_keys([entry_key(each) for each in ids])[:taken], ids
    )


def _open_features(settings: ScanSource, name: str) -> NpyRows:
    path = settings.path(name, "ims.npy")
    try:
        rows = NpyRows(path)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: not a readable array ({error}).") from None
    if len(rows.shape) != 3 or rows.shape[2] != settings.width or not rows.shape[1]:
        vectors = (
            "one vector per image; kind: pairs takes such files" if len(rows.shape) == 2 else "other features"
        )
        raise UserError(
            f"{path}: expected (images, regions, {settings.width}), found {rows.shape}: {vectors}.\n"
            f"Fix: set source.width, if the regions of this set have another one than {settings.width} "
            "values."
        )
    if rows.dtype.kind != "f":
        raise UserError(f"{path}: expected float16 or float32, found {rows.dtype}")
    return rows


def _read_ids(settings: ScanSource, name: str, count: int) -> list[str]:
    """An id per image, from the ids of images or captions; numbers from 0 where there is no file."""
    path, per = settings.path(name, "ids.txt"), settings.captions_per_image
    if not path.is_file():
        return [str(number) for number in range(count)]
    ids = [line.strip() for line in read_lines(path)]
    if len(ids) == count * per and per > 1:
        ids = ids[::per]
    if len(ids) != count or not all(ids):
        empty = sum(not each for each in ids)
        found = f"{len(ids):,} ids" + (f", {empty:,} of them empty" if empty else "")
        raise UserError(
            f"{path}: {found}, for {count:,} images with {per} captions each.\n"
            "Expected an id per image or per caption. Fix: get the file again, or remove it; images are "
            "numbered then."
        )
    return ids


def read_lines(path: Path) -> list[str]:
    """The lines of a text; the last one counts with a line end behind it and without.

    Raises:
        UserError: it is no UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no UTF-8 at byte {error.start}; save it as UTF-8") from None
    lines = text.split("\n")  # no other line end: captions hold letters that `splitlines` would cut at
    return lines[:-1] if not lines[-1] else lines


def _absent(path: Path, settings: ScanSource) -> str:
    more = ""
    if path.name.startswith("testall_"):
        more = (
            "\n`testall` has all 5,000 test images of COCO, which the 5K figures and the folds of 1,000 "
            "need; only the coco features have it. Without it, leave it out of source.splits."
        )
    return (
        f"{path}: no such file. Expected SPLIT_caps.txt and SPLIT_ims.npy in {settings.folder} for "
        f"{', '.join(settings.splits)}.{more}"
    )
