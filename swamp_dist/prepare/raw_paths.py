"""Files and folders that a recipe reads, looked for before anything is opened. Imports no reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from swamp_dist.config import (
    PairsSource,
    ShardSettings,
    SourceSettings,
    TableSource,
    WebDatasetSource,
    YouCook2Source,
)
from swamp_dist.settings import is_of_working_folder

_LISTS = frozenset({"train_pickle", "test_pickle"})
"""What YouCook2 reads under `layout: lists`, and nothing else."""


def missing_raw_paths(settings: ShardSettings) -> list[tuple[str, Path]]:
    """Key and path of everything that the recipe names and that is not there.

    Raw data that the build fetches or makes itself are not looked for, nor are those of a user's module.
    """
    source = settings.source
    found = list(_paths(source))
    fields = type(source).model_fields
    made = [getattr(source, name) for name, field in fields.items() if is_of_working_folder(field)]
    if settings.words is not None and not any(_is_inside(settings.words.vectors, folder) for folder in made):
        found.append(("words.vectors", settings.words.vectors))
    if settings.vocabulary is not None and settings.vocabulary.file is not None:
        found.append(("vocabulary.file", settings.vocabulary.file))
    return [(key, path) for key, path in dict.fromkeys(found) if not path.exists()]


def _paths(source: SourceSettings) -> Iterator[tuple[str, Path]]:
    if isinstance(source, PairsSource | TableSource | WebDatasetSource):
        yield from (("source", path) for path in source.files())
        return
    for name, field in type(source).model_fields.items():
        value = getattr(source, name)
        if is_of_working_folder(field) or (isinstance(source, YouCook2Source) and not _is_read(source, name)):
            continue
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path):
                yield f"source.{name}", path


def _is_read(source: YouCook2Source, name: str) -> bool:
    return (name in _LISTS) == (source.layout == "lists")


def _is_inside(path: Path, folder: object) -> bool:
    return isinstance(folder, Path) and path.resolve().is_relative_to(folder.resolve())
