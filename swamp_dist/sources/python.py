"""A data set of the user's own: a module below the working folder, or an installed one.

The module has two functions, which are given the recipe's `options` by keyword:

    def open_splits(**options) -> Mapping[str, RawSplit]      # every split by name
    def item_fields(**options) -> Collection[str]             # fields of several items per entry; often ()

and, where fields hold sets of vectors (regions of an image), a third one:

    def ragged_fields(**options) -> Collection[str]           # fields of arrays (elements, values)

A field of a sample is an array, the bytes of an encoded image, a text, or a tuple of texts (a field of
several items). Captions become texts or word ids when shards are built.

`swamp_dist` has the names that it needs: `RawSplit`, `Sample`, and `BadEntry` for an entry whose raw data are
missing or malformed. Other modules of the working folder can be imported, also inside a function; the rest of
the program does not see the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

from swamp_dist.config import PythonSource
from swamp_dist.errors import UserError
from swamp_dist.records import RawSplit, Sample

_CONTRACT = (
    "A module of a data set has `open_splits(**options) -> {split: RawSplit}` and "
    '`item_fields(**options) -> names`; see CONTRIBUTING.md, "Add a data set".'
)


def open_splits(settings: PythonSource) -> Mapping[str, RawSplit]:
    """The splits that the module opens; errors inside its functions name it, the line and the entry.

    Raises:
        UserError: no such module or function, options that it does not take, a module other than
            `settings.sha256` says, another return than splits, or an exception inside.
    """
    module = _load(settings)
    splits = module.call("open_splits", settings.options)
    if not isinstance(splits, Mapping):
        raise module.wrong("open_splits", "a mapping of split names to RawSplit", splits)
    for name, split in splits.items():
        if not isinstance(name, str) or not isinstance(split, RawSplit):
            raise module.wrong(f"open_splits: split {name!r}", "a name with a RawSplit", split)
        if isinstance(split.keys, str) or not all(isinstance(key, str) for key in split.keys):
            raise module.wrong(f"open_splits: keys of split {name!r}", "a sequence of texts", split.keys)
    return {name: _guarded(module, name, split) for name, split in splits.items()}


def item_fields(settings: PythonSource) -> frozenset[str]:
    """The fields that the module says hold several items.

    Raises:
        UserError: as `open_splits`.
    """
    return _field_names(_load(settings), "item_fields", settings.options)


def ragged_fields(settings: PythonSource) -> frozenset[str]:
    """The fields that the module says hold sets of vectors; none where it has no such function.

    Raises:
        UserError: as `open_splits`.
    """
    module = _load(settings)
    if getattr(module.content, "ragged_fields", None) is None:
        return frozenset()
    return _field_names(module, "ragged_fields", settings.options)


def module_sha256(settings: PythonSource) -> str:
    """Hash of the module's file; the module itself is not run.

    Raises:
        UserError: there is no such module.
    """
    return hashlib.sha256(_find(settings.target, os.getcwd()).read_bytes()).hexdigest()


@dataclass(frozen=True)
class _UserModule:
    """A module of the user's, loaded, with what its errors are told by."""

    name: str
    file: Path
    folder: str
    """The working folder, which imports reach while code of the module runs."""
    content: Any

    def call(self, function: str, options: Mapping[str, Any]) -> Any:
        """Call one of its functions with the options of the recipe."""
        found = getattr(self.content, function, None)
        if not callable(found):
            raise UserError(
                f"source.target: {self.name} ({self.file}) has no function {function}.\n{_CONTRACT}"
            )
        try:
            inspect.signature(found).bind(**options)
        except TypeError as error:
            raise UserError(
                f"source.options: {function} of {self.name} ({self.file}) does not take them: {error}.\n"
                f"Given: {', '.join(options) or 'none'}; its parameters: {inspect.signature(found)}."
            ) from None
        with self.running(f"{self.name}.{function}"):
            return found(**options)

    @contextlib.contextmanager
    def running(self, what: str) -> Iterator[None]:
        """Inside, imports reach the working folder, and an exception is told as one of `what`.

        UserError and BadEntry pass as they are: the module raises them for what its user can mend.
        """
        with _importable(self.folder):
            try:
                yield
            except UserError:
                raise
            except Exception as error:
                raise UserError(f"{what}: {_describe(error, self.file)}.\n{self._mend()}") from error

    def wrong(self, what: str, expected: str, found: object) -> UserError:
        """The error of a value that the module must not return."""
        shown = repr(found)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return UserError(
            f"{self.name} ({self.file}): {what}: expected {expected}, found {type(found).__name__} {shown}.\n"
            f"{_CONTRACT}"
        )

    def _mend(self) -> str:
        return (
            f"Mend the module {self.name}; where the raw data of one entry are at fault, raise "
            "swamp_dist.BadEntry there, and on_missing decides what becomes of it."
        )


def _field_names(module: _UserModule, function: str, options: Mapping[str, Any]) -> frozenset[str]:
    names = module.call(function, options)
    listed = isinstance(names, Collection) and not isinstance(names, str)
    if not listed or not all(isinstance(name, str) for name in names):
        raise module.wrong(function, "a set of names, () for none", names)
    return frozenset(names)


# -- finding and loading ---------------------------------------------------------------------------


def _load(settings: PythonSource) -> _UserModule:
    folder = os.getcwd()
    file = _find(settings.target, folder)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if settings.sha256 not in (None, found):
        raise UserError(
            f"source.sha256: expected {settings.sha256} for module {settings.target}, {file} has {found}.\n"
            "It was edited since the build began, or is not the module of the recipe: run the command again, "
            "or correct source.sha256 (null takes any)."
        )
    with _importable(folder), _told_as_import(settings.target, file):
        return _UserModule(settings.target, file, folder, import_module(settings.target))


def _find(name: str, folder: str) -> Path:
    """The file of a module, which is not run; packages around it are."""
    spec = None
    invalidate_caches()
    with _importable(folder), _told_as_import(name, None):
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
        except ValueError:  # a module without a file, such as __main__
            spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        expected = Path(folder, *name.split(".")).with_suffix(".py")
        raise UserError(
            f"source.target: there is no module {name!r}.\n"
            f"Expected {expected}, below the working folder, or an installed package."
        )
    return Path(spec.origin)


@contextlib.contextmanager
def _told_as_import(name: str, file: Path | None) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"source.target: importing {name} failed: {_describe(error, file)}.") from error


@contextlib.contextmanager
def _importable(folder: str) -> Iterator[None]:
    """Let imports reach `folder` first, as they do for a script there; afterwards they do not."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the module took it away itself
            sys.path.remove(folder)


def _describe(error: Exception, file: Path | None) -> str:
    """Kind and text of an error, and the line of the module that it came through."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError):
        return text  # says file and line itself
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if file is None or Path(f.filename) == file
    ]
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name})" if frames else text


# -- what the module's splits give ------------------------------------------------------------------


def _guarded(module: _UserModule, name: str, split: RawSplit) -> RawSplit:
    """The split with errors that name entry and module, and imports that reach the working folder."""

    def read(i: int) -> Sample:
        what = f"split {name!r}, entry {split.keys[i]!r}"
        with module.running(what):
            sample = split.read(i)
        if not isinstance(sample, Sample):
            raise module.wrong(what, "a Sample from RawSplit.read", sample)
        _check_captions(module, f"{what}: captions", sample.captions)
        return sample

    captions = split.captions
    listed = None if captions is None else lambda: _captions(module, name, captions)
    return replace(split, read=read, captions=listed)


def _captions(
    module: _UserModule, name: str, captions: Callable[[], Iterable[Sequence[str]]]
) -> Iterator[Sequence[str]]:
    what, end = f"split {name!r}, captions", object()
    with module.running(what):
        listed = iter(captions())
    while True:
        with module.running(what):
            found: Any = next(listed, end)
        if found is end:
            return
        _check_captions(module, what, found)
        yield found


def _check_captions(module: _UserModule, what: str, found: object) -> None:
    """Refuse what are not several texts; a single text would be taken for its letters.

    Raises:
        UserError: says what to give instead.
    """
    if isinstance(found, str) or not isinstance(found, Sequence):
        fix = f"one caption is ({found!r:.40},)" if isinstance(found, str) else "() where there is none"
        raise module.wrong(what, f"a tuple of texts for every entry ({fix})", found)
    for number, caption in enumerate(found):
        if not isinstance(caption, str):
            raise module.wrong(
                f"{what}: caption {number}",
                'a text ("" for one without words, str(value) for a number, swamp_dist.BadEntry where the '
                "raw data are wrong)",
                caption,
            )
