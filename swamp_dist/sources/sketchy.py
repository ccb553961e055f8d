"""Sketchy-Extended: sketches and photos in the folders of Doodle2Search (Dey et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping

from swamp_dist.config import SketchySource
from swamp_dist.records import RawSplit
from swamp_dist.sources.sketch_folders import open_folders


def open_splits(settings: SketchySource) -> Mapping[str, RawSplit]:
    """Splits in couples of sketches and photos, as `sketch_splits`.

    Raises:
        UserError: as `open_folders`.
    """
    photos = [settings.photos, *([settings.original_photos] if settings.originals else [])]
    return open_folders(settings, photos, settings.validation_classes)


def item_fields(settings: SketchySource) -> frozenset[str]:
    """No field has several items."""
    return frozenset()
