"""Sketch sets by the lists of SAKE and ZSE-SBIR: `path/of/file.png NUMBER` per line.

Names of classes may hold blanks, so lines are cut at the last one. Numbers start from 0 again in the lists of
unseen classes: classes are joined by name and numbered anew over both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from swamp_dist.config import SketchListsSource
from swamp_dist.errors import UserError
from swamp_dist.plain_files import NotPlainError, read_plain_file
from swamp_dist.records import RawSplit
from swamp_dist.sources.class_names import normal_name
from swamp_dist.sources.class_splits import UNSEEN, check_disjoint, divide, read_class_list
from swamp_dist.sources.image_files import image_path
from swamp_dist.sources.raw_files import check_files
from swamp_dist.sources.sketch_sets import ClassImages, complete_classes, sketch_splits

_MOST_BYTES = 2**28
_EXPECTED = "expected `path/of/file.png NUMBER` per line, as in the lists of SAKE and ZSE-SBIR"


def open_splits(settings: SketchListsSource) -> Mapping[str, RawSplit]:
    """Splits in couples of sketches and photos, as `sketch_splits`; images are read one by one.

    Raises:
        UserError: a list is absent or malformed, has a number without a name, an image is listed as two
            things, a class is incomplete or both seen and unseen, or the unseen ones are not those of
            `settings.split`.
    """
    check_files(settings.files(), settings.sha256)
    seen = _read_side(settings, settings.train_sketches, settings.train_photos, settings.train_names)
    unseen = _read_side(settings, settings.test_sketches, settings.test_photos, settings.test_names)
    check_disjoint({"train": seen, "test": unseen})
    _check_images(settings, seen, unseen)
    _check_split(settings, unseen)
    images = complete_classes({**seen, **unseen}, settings.incomplete, unseen)
    order = () if settings.order is None else read_class_list(settings.order)
    parts = divide(list(images), list(unseen), settings.validation_classes, settings.validation_seed, order)
    return sketch_splits(settings.root, images, parts)


def item_fields(settings: SketchListsSource) -> frozenset[str]:
    """No field has several items."""
    return frozenset()


def _check_images(
    settings: SketchListsSource, seen: Mapping[str, ClassImages], unseen: Mapping[str, ClassImages]
) -> None:
    """Refuse an image of two classes, and one that is a sketch and a photo: a path stands under one class of
    one list."""
    place_of: dict[str, str] = {}
    twice: dict[str, str] = {}
    for side, images, sketches, photos in (
        ("seen", seen, settings.train_sketches, settings.train_photos),
        ("unseen", unseen, settings.test_sketches, settings.test_photos),
    ):
        for name, each in images.items():
            for file, paths in ((sketches, each.sketches), (photos, each.photos)):
                place = f"{side} class {name} ({file})"
                for path in paths:
                    other = place_of.setdefault(path, place)
                    if other != place:
                        twice.setdefault(path, f"{path} under {other} and {place}")
    if twice:
        shown = "; ".join(list(twice.values())[:5])
        raise UserError(
            f"{settings.lists}: images are listed twice, {len(twice)} in all: {shown}.\n"
            "Fix: leave each image in one list under one class; one of an unseen class may not be trained on."
        )


def _check_split(settings: SketchListsSource, unseen: Mapping[str, ClassImages]) -> None:
    if settings.split is None:
        return
    wanted = set(UNSEEN[settings.split])
    if wanted != set(unseen):
        more, less = sorted(set(unseen) - wanted), sorted(wanted - set(unseen))
        raise UserError(
            f"{settings.lists / settings.test_names}: the unseen classes are not those of {settings.split}: "
            f"{len(more)} others ({', '.join(more[:5])}), {len(less)} missing ({', '.join(less[:5])}).\n"
            "Fix: correct source.split; figures on two splits do not compare."
        )


def _read_side(settings: SketchListsSource, sketches: str, photos: str, names: str) -> dict[str, ClassImages]:
    """The images of seen or of unseen classes, by name of the class."""
    name_of = _read_names(settings.lists / names)
    found = [_read_list(settings.lists / each, name_of, settings.replace) for each in (sketches, photos)]
    return {name: ClassImages(*(each.get(name, []) for each in found)) for name in name_of.values()}


def _read_names(file: Path) -> dict[int, str]:
    """Name of each number."""
    found: dict[int, str] = {}
    for place, text, number in _lines(file):
        name = normal_name(text)
        if number in found or name in found.values():
            raise UserError(f"{place}: name or number stands in the file already: {text} {number}")
        found[number] = name
    return found


def _read_list(file: Path, name_of: Mapping[int, str], replace: Mapping[str, str]) -> dict[str, list[str]]:
    """Paths by name of the class."""
    found: dict[str, list[str]] = {}
    for place, text, number in _lines(file):
        if number not in name_of:
            raise UserError(
                f"{place}: number {number} has no name; names are those of 0 to {len(name_of) - 1}"
            )
        for old, new in replace.items():
            text = text.replace(old, new)
        found.setdefault(name_of[number], []).append(image_path(text, place))
    return found


def _lines(file: Path) -> Iterator[tuple[str, str, int]]:
    """(place, text, number) of every line that is not empty."""
    try:
        lines = read_plain_file(file, _MOST_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, NotPlainError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); {_EXPECTED}") from None
    if not any(line.strip() for line in lines):
        raise UserError(f"{file}: it is empty; {_EXPECTED}")
    for row, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        text, _, number = line.strip().rpartition(" ")
        place = f"{file}, line {row}"
        if not text.strip() or not number.isascii() or not number.isdecimal():
            raise UserError(f"{place}: found {line[:80]!r}; {_EXPECTED}")
        yield place, text.strip(), int(number)
