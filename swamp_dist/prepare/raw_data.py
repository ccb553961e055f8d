"""Opens the raw data that a recipe names, whatever their source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from swamp_dist.config import (
    KarpathySource,
    PairsSource,
    PythonSource,
    ScanSource,
    SketchSettings,
    SourceSettings,
    TableSource,
    WebDatasetSource,
)
from swamp_dist.errors import UserError
from swamp_dist.records import RawSplit
from swamp_dist.sources import python
from swamp_dist.sources.energon import source_files
from swamp_dist.sources.published import published_counts
from swamp_dist.sources.raw_files import files_sha256

FileSources = PairsSource | TableSource | WebDatasetSource | ScanSource | KarpathySource | SketchSettings
"""Sources whose files a set keeps the hash of."""
_SOURCES = "swamp_dist.sources"


@dataclass(frozen=True)
class RawData:
    """A raw data set, opened but not read."""

    splits: Mapping[str, RawSplit]
    item_fields: frozenset[str] = frozenset()
    """Fields whose arrays have a leading axis of several items."""
    published: Mapping[str, int] = field(default_factory=dict)
    """Published number of entries by split; nothing where none is known."""
    ragged_fields: frozenset[str] = frozenset()
    """Fields whose item is a set: an array with a leading axis of any number of elements."""


def open_raw_data(settings: SourceSettings) -> RawData:
    """Open a source: the module of `swamp_dist.sources` that has the name of its `kind`.

    Such a module has `open_splits(settings) -> Mapping[str, RawSplit]` and
    `item_fields(settings) -> frozenset[str]`; where fields hold sets of vectors, it also has
    `ragged_fields(settings) -> frozenset[str]`.

    Raises:
        UserError: raw files are missing or malformed as a whole.
    """
    source: Any = import_module(f"{_SOURCES}.{settings.kind}")
    splits, items = source.open_splits(settings), source.item_fields(settings)
    ragged = getattr(source, "ragged_fields", None)
    sets = frozenset() if ragged is None else ragged(settings)
    return RawData(splits, items, published_counts(settings), sets)


def has_captions(splits: Mapping[str, RawSplit]) -> bool:
    """Whether entries have captions."""
    return any(split.captions is not None for split in splits.values())


def caption_field(splits: Mapping[str, RawSplit]) -> str:
    """The field of captions.

    Raises:
        UserError: splits name different ones.
    """
    names = {split.caption_field for split in splits.values() if split.captions is not None} or {"text"}
    if len(names) > 1:
        raise UserError(f"captions stand in one field of all splits; found {', '.join(sorted(names))}")
    return names.pop()


def pin_source(settings: SourceSettings) -> SourceSettings:
    """The source with everything written out that decides its entries: the hash of a user's module or files.

    Where the recipe gives the hash itself they are not looked at, so that a set can be used without them.

    Raises:
        UserError: the module is absent.
    """
    if isinstance(settings, PythonSource) and settings.sha256 is None:
        return settings.model_copy(update={"sha256": python.module_sha256(settings)})
    if isinstance(settings, FileSources) and settings.sha256 is None:
        files = source_files(settings) if isinstance(settings, WebDatasetSource) else settings.files()
        if files and all(path.is_file() for path in files):  # else opening says what is missing
            return settings.model_copy(update={"sha256": files_sha256(files)})
    return settings


def source_record(settings: SourceSettings) -> dict[str, Any]:
    """The source's settings as recipes and manifests keep them: where files lie changes nothing.

    Of a path the last name stays, which tells one published list of entries from another. A setting that is
    younger than sets stands there only where it says something else than they were built with.
    """
    content = settings.model_dump(exclude={"download"})
    record: dict[str, Any] = json.loads(json.dumps(_without_younger(content), default=_last_name))
    return record


def _without_younger(content: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in content.items() if name not in _YOUNGER or value != _YOUNGER[name]}
    return {
        name: _without_younger(value) if isinstance(value, dict) else value for name, value in kept.items()
    }


_MARKED_BYTES = 2**20
_YOUNGER: Mapping[str, object] = {"wordless": "refuse", "energon": None, "files": {}}
"""Settings of sources that sets of before do not name, with what those were built with."""


def raw_marks(settings: SourceSettings) -> dict[str, Any]:
    """What tells the raw data of an unfinished build from others of the same names.

    Files by size and the hash of both their ends, folders by where they are. A build that goes on with other
    raw data starts anew instead of mixing two extractors in one set.
    """
    marks = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        paths = value if isinstance(value, tuple) else (value,)
        if name != "download" and paths and all(isinstance(path, Path) for path in paths):
            marks[name] = [_mark(path) for path in paths]
    return marks


def _mark(path: Path) -> list[object]:
    if not path.is_file():
        return [str(path.resolve())]
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_MARKED_BYTES))
        file.seek(max(0, path.stat().st_size - _MARKED_BYTES))
        digest.update(file.read())
    return [path.stat().st_size, digest.hexdigest()]


def _last_name(value: object) -> str:
    if isinstance(value, Path):
        return value.name
    raise TypeError(f"{value!r} is neither a path nor JSON-ready")
