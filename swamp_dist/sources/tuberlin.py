"""TU-Berlin-Extended: sketches and photos in the folders of Doodle2Search (Dey et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping

from swamp_dist.config import TuBerlinSource
from swamp_dist.records import RawSplit
from swamp_dist.sources.sketch_folders import open_folders

VALIDATION_CLASSES = 20
"""Of 220 seen ones, as Doodle2Search takes them."""


def open_splits(settings: TuBerlinSource) -> Mapping[str, RawSplit]:
    """Splits in couples of sketches and photos, as `sketch_splits`.

    Raises:
        UserError: as `open_folders`.
    """
    validation = VALIDATION_CLASSES if settings.validation_classes is None else settings.validation_classes
    return open_folders(settings, [settings.photos], validation)


def item_fields(settings: TuBerlinSource) -> frozenset[str]:
    """No field has several items."""
    return frozenset()
