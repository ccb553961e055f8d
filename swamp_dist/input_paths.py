"""Paths in settings files: relative to the file that says them.

So is every path of something that people write or bring: a job, a recipe, raw data, word vectors. What this
program makes itself (shard sets, runs and their weights, downloads) is below the working folder, whichever
file names it (`WORKING_FOLDER`), and so is all that a command line says. Settings that were loaded hold every
path as seen from the working folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from swamp_dist.explaining import Problem, origin_of
from swamp_dist.origins import FileText, file_of
from swamp_dist.printable import printable
from swamp_dist.settings import Settings, is_of_working_folder, is_override

logger = logging.getLogger(__name__)
S = TypeVar("S", bound=Settings)
_Key = tuple[str, ...]
_Change = Callable[[Any, _Key], Any]


def resolve_paths(settings: S, origin: Mapping[_Key, str]) -> tuple[S, list[Problem]]:
    """The settings with paths as seen from the working folder, and paths that could mean two files.

    A path of earlier versions, relative to the working folder, is taken where only that file exists, with a
    warning. Overrides for other files remember where they were said, since those files load later.

    Args:
        origin: where each key was given, as `YamlTree.origin`.
    """
    problems: list[Problem] = []
    made = list(_made(settings))

    def resolve(value: Any, key: _Key) -> Any:
        where = origin_of(key, origin)
        if isinstance(value, str):
            return FileText(value, where)
        file = file_of(where)
        if file is None or value.is_absolute():
            return value
        beside, earlier = _from_here(file.parent / value), value
        if _lead_to_two_files(beside, earlier):
            problems.append(Problem(key, where, _ambiguous(beside, earlier)))
        elif not os.path.exists(beside) and (os.path.exists(earlier) or _is_below(earlier, made)):
            _warn_once(f"{where}: {'.'.join(key)}", str(earlier), os.path.relpath(earlier, file.parent))
            return earlier
        return beside

    return _change_given(settings, resolve), problems


def with_absolute_paths(settings: S) -> S:
    """The settings with whole paths of what they bring, so that their dump means the same anywhere."""

    def make_absolute(value: Any, _key: _Key) -> Any:
        return value if isinstance(value, str) else Path(os.path.abspath(value))

    return _change_given(settings, make_absolute, defaults=True)


def _change_given(section: S, change: _Change, prefix: _Key = (), *, defaults: bool = False) -> S:
    """A copy in which every path and override that was given is replaced by `change(value, key)`.

    Args:
        defaults: replace paths that nobody gave as well.
    """

    def change_in(value: Any, key: _Key, texts: bool) -> Any:
        if isinstance(value, Path) or (texts and isinstance(value, str)):
            return change(value, key)
        if isinstance(value, Settings):
            return _change_given(value, change, key, defaults=defaults)
        if isinstance(value, tuple):
            return tuple(change_in(item, (*key, str(i)), texts) for i, item in enumerate(value))
        if isinstance(value, dict):
            # Keys of `vary` are beginnings of overrides; their values are plain.
            return {
                change(name, (*key, name)) if texts else name: change_in(item, (*key, name), False)
                for name, item in value.items()
            }
        return value

    given = type(section).model_fields if defaults else section.model_fields_set
    return section.model_copy(
        update={
            name: change_in(getattr(section, name), (*prefix, name), is_override(field))
            for name, field in type(section).model_fields.items()
            if name in given and not is_of_working_folder(field)
        }
    )


def _made(section: Settings) -> Iterator[Path]:
    """Folders that this program makes by these settings."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Settings):
            yield from _made(value)
        elif isinstance(value, Path) and is_of_working_folder(field):
            yield value


def _from_here(path: Path) -> Path:
    """A path without `..` where that leads to the same file, and without the working folder before it."""
    plain = Path(os.path.normpath(path))
    if os.path.realpath(plain) != os.path.realpath(path):  # `..` behind a link
        return path
    here = Path.cwd()
    return plain.relative_to(here) if plain.is_relative_to(here) else plain


def _lead_to_two_files(one: Path, other: Path) -> bool:
    try:
        return not os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them at most is there
        return False


def _is_below(path: Path, folders: list[Path]) -> bool:
    """Whether a file that is not there yet will be written below one of `folders`."""
    whole = Path(os.path.abspath(path))
    return any(whole.is_relative_to(os.path.abspath(folder)) for folder in folders)


def _ambiguous(beside: Path, earlier: Path) -> str:
    return (
        f"this leads to two different files: {beside}, relative to the file that says it, and {earlier}, "
        "relative to the working folder as in earlier versions. Write the whole path of the one that you mean"
    )


@cache
def _warn_once(where: str, path: str, relative: str) -> None:
    """Say that a path is of earlier versions; a pipeline loads the same file many times."""
    logger.warning(
        "warning: %s: %s is taken relative to the working folder, as in earlier versions. A path is relative "
        "to the file that says it: write %s",
        *(printable(text, one_line=True) for text in (where, path, relative)),
    )
