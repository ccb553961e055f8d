"""How many classes, sketches and photos the published sketch sets have, of seen and of unseen classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from swamp_dist.config import SketchListsSource, SketchSettings, SketchySource


class Sides(NamedTuple):
    """A count of seen classes (train and validation together) and one of unseen ones (test)."""

    seen: int | None
    unseen: int | None


class SketchCounts(NamedTuple):
    """What is published of a set; None where nothing is."""

    classes: Sides
    sketches: Sides
    photos: Sides


SKETCH_SETS: Mapping[str, SketchCounts] = {
    # The extended photos: 73,002 in the set, counted by class in the lists of ZSE-SBIR without the originals.
    # Sketches: about 75,500 before cleaning, and by split not published.
    "sketchy sketchy21": SketchCounts(Sides(104, 21), Sides(None, None), Sides(62_549, 10_453)),
    "sketchy sketchy25": SketchCounts(Sides(100, 25), Sides(None, None), Sides(58_401, 14_601)),
    # 80 sketches a class (Eitz et al. 2012); 204,489 photos, of which the list of SAKE has 27,989 unseen
    "tuberlin sake30": SketchCounts(Sides(220, 30), Sides(17_600, 2_400), Sides(176_500, 27_989)),
    # 3,000 sketches a class and about 204,000 photos (Dey et al. 2019)
    "quickdraw quickdraw30": SketchCounts(Sides(80, 30), Sides(240_000, 90_000), Sides(None, None)),
    # lines of the lists of ZSE-SBIR (commit 88f87f7), which have the 12,500 originals of Sketchy too
    "lists sketchy21": SketchCounts(Sides(104, 21), Sides(57_587, 12_694), Sides(72_949, 12_553)),
    "lists sketchy25": SketchCounts(Sides(100, 25), Sides(55_252, 15_229), Sides(68_401, 17_101)),
    "lists sake30": SketchCounts(Sides(220, 30), Sides(15_400, 2_400), Sides(None, 27_989)),
    "lists quickdraw30": SketchCounts(Sides(80, 30), Sides(None, 92_291), Sides(None, 54_151)),
}
"""By layout and split."""
_ORIGINALS = 100
"""Photos of a class that were sketched, which the gallery may hold beside the extended ones."""


def published_sketches(settings: SketchSettings) -> SketchCounts | None:
    """What is published of the set that these settings open; None for classes of one's own."""
    lists = isinstance(settings, SketchListsSource)
    found = SKETCH_SETS.get(f"{'lists' if lists else getattr(settings, 'kind', '')} {settings.split}")
    if found is None or not (isinstance(settings, SketchySource) and settings.originals):
        return found
    photos = [
        None if photos is None or classes is None else photos + _ORIGINALS * classes
        for photos, classes in zip(found.photos, found.classes, strict=True)
    ]
    return found._replace(photos=Sides(*photos))


def sketch_counts(settings: SketchSettings) -> Mapping[str, int]:
    """Published entries of the splits of unseen classes. Those of seen ones are published of train and
    validation together."""
    found = published_sketches(settings)
    if found is None:
        return {}
    counts = {"test": found.sketches.unseen, "test_photos": found.photos.unseen}
    return {name: count for name, count in counts.items() if count is not None}
