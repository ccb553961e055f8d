"""Data sets prepared for Megatron-Energon: its `.nv-meta` folder as splits and fields of `kind: webdataset`.

Read are `split.yaml` (or `.json`): `split_parts` lists the tars of each split, names with braces, relative
to the data set, and `exclude` leaves out tars and samples (TAR/KEY); `dataset.yaml`: `field_map` says which
member is which part of a sample; `.info.json` (or `.yaml`): `shard_counts`, samples of each tar. The format
is that of Megatron-Energon 7, docs/source/basic/data_on_disk.md and flavors/webdataset/structs.py. Code that
such a folder names (`sample_loader`, `part_filter`) never runs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import ValidationError

from swamp_dist.config import WebDatasetSource
from swamp_dist.config.own_tars import ENERGON_FOLDER, is_known_member
from swamp_dist.config.tar_patterns import expand_braces
from swamp_dist.errors import UserError
from swamp_dist.plain_files import parse_json, read_plain_file
from swamp_dist.printable import printable
from swamp_dist.yaml_tree import read_values

logger = logging.getLogger(__name__)
T = TypeVar("T")

MOST_BYTES, MOST_VALUES = 2**25, 2_000_000
"""Of a file of `.nv-meta`: sets of 100,000 tars name each of them."""
_ACCESS = re.compile(r"([^\[\]]+)((?:\[[^\[\]]+\])*)")
_LABEL_MEMBER = "cls"
_UNUSED = ("subflavors", "sample_loader", "part_filter")


@dataclass(frozen=True)
class EnergonFolder:
    """An opened `.nv-meta` folder."""

    folder: Path
    """The data set, which holds `.nv-meta`."""
    notes: list[str] = field(default_factory=list)
    """What was read and is not used."""

    @cached_property
    def files(self) -> list[Path]:
        """The files that decide which entries there are.

        Raises:
            UserError: the folder has no `split.yaml`.
        """
        dataset = self._one_of("dataset.yaml", "dataset.json")
        return [self._splits_file, *([] if dataset is None else [dataset])]

    @cached_property
    def splits(self) -> dict[str, list[Path]]:
        """The tars of each split that has some, without those that `exclude` names.

        Raises:
            UserError: malformed, a name that leads out of the data set, or no split with tars.
        """
        path = self._splits_file
        parts = _section(self._split_values.get("split_parts"), f"{path}: split_parts")
        found, empty = {}, []
        for name, listed in parts.items():
            tars = self._expanded(listed, f"{path}: split_parts.{name}")
            kept = [self.folder / tar for tar in tars if tar not in self.excluded]
            if kept:
                found[name] = kept
            else:
                empty.append(name)
        if empty:
            self.notes.append(f"{path}: splits without tars are left out: {', '.join(map(_shown, empty))}")
        if not found:
            raise UserError(
                f"{path}: split_parts names no tar; run `energon prepare` with shares for its splits"
            )
        return found

    @cached_property
    def excluded(self) -> frozenset[str]:
        """Tars, and samples as TAR/KEY, that belong to no split."""
        listed = self._split_values.get("exclude", [])
        return frozenset(self._expanded(listed, f"{self._splits_file}: exclude"))

    def is_excluded(self, tar: Path, key: str) -> bool:
        """Whether `exclude` names the sample `key` of a tar of this set."""
        return f"{tar.relative_to(self.folder).as_posix()}/{key}" in self.excluded

    def excluded_samples(self) -> int:
        """How many samples `exclude` names."""
        tars = {tar for of in self.splits.values() for tar in of}
        parents = {tar.relative_to(self.folder).as_posix() for tar in tars}
        return sum(any(str(p) in parents for p in PurePosixPath(name).parents) for name in self.excluded)

    def check_counts(self, counted: Mapping[Path, int]) -> None:
        """Warn where tars hold other numbers of samples than Energon has counted."""
        path = self._one_of(".info.json", ".info.yaml")
        if path is None:
            return
        counts = _section(_read(path).get("shard_counts", {}), f"{path}: shard_counts")
        names = {tar: tar.relative_to(self.folder).as_posix() for tar in counted}
        others = [tar for tar in counted if counts.get(names[tar], counted[tar]) != counted[tar]]
        if others:
            first = others[0]
            logger.warning(
                "%s counts %s samples in %s, which has %s; %d of %d tars differ: they were changed since "
                "`energon prepare`",
                path, _shown(counts[names[first]]), names[first], counted[first], len(others), len(counted),
            )  # fmt: skip

    def note_unused(self) -> None:
        """Note what `dataset.yaml` says that nothing here uses."""
        path, values = self._dataset
        unused = [name for name in _UNUSED if values.get(name)]
        if unused:
            self.notes.append(f"{path}: not used: {', '.join(unused)} (code is never run)")

    def members(self) -> dict[str, object]:
        """What `field_map` says as settings of the source: `fields`, `label` and `json_key`; nothing where
        there is no field map.

        Raises:
            UserError: it maps to what cannot be read here.
        """
        path, values = self._dataset
        if not values.get("field_map"):
            self.notes.append(
                f"{path or self._meta} has no field_map: members become fields by source.fields"
            )
            return {}
        where = f"{path}: field_map"
        return _members(_section(values["field_map"], where), where, self.notes)

    @property
    def _meta(self) -> Path:
        return self.folder / ENERGON_FOLDER

    @cached_property
    def _dataset(self) -> tuple[Path | None, dict[str, object]]:
        path = self._one_of("dataset.yaml", "dataset.json")
        return path, {} if path is None else _read(path)

    @cached_property
    def _split_values(self) -> dict[str, object]:
        return _read(self._splits_file)

    @property
    def _splits_file(self) -> Path:
        path = self._one_of("split.yaml", "split.json")
        if path is None:
            raise UserError(
                f"source.energon: {self._meta} has no split.yaml.\nName the folder that `energon prepare` "
                "was run on, which holds .nv-meta, or give the tars in source.splits."
            )
        return path

    def _one_of(self, *names: str) -> Path | None:
        return next((self._meta / name for name in names if (self._meta / name).exists()), None)

    def _expanded(self, listed: object, where: str) -> list[str]:
        """The names of a list, braces written out, each once; refuses what lies outside the data set."""
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise UserError(f"{where}: expected a list of names of tars, found {_shown(listed)}")
        names = dict.fromkeys(
            name
            for pattern in listed
            for name in _valid(lambda p=pattern: expand_braces(p), where)  # type: ignore[misc]
        )
        for name in names:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
                raise UserError(f"{where}: expected names below {self.folder}, found {_shown(name)}")
        return list(names)


def resolve(settings: WebDatasetSource) -> tuple[WebDatasetSource, EnergonFolder | None]:
    """Settings in which the tars of an Energon data set stand in `splits`, and its members in `fields` where
    the recipe leaves these at their default; others are given back as they are. And the opened folder.

    Raises:
        UserError: the folder is absent or malformed.
    """
    if settings.energon is None:
        return settings, None
    opened = EnergonFolder(settings.energon)
    opened.note_unused()
    content = settings.model_dump() | {"energon": None}
    content["splits"] = {name: tuple(tars) for name, tars in opened.splits.items()}
    if settings.fields == WebDatasetSource.model_fields["fields"].default:
        content |= opened.members()
    for note in opened.notes:
        logger.info("%s", note)
    resolved = _valid(
        lambda: WebDatasetSource.model_validate(content), f"{settings.energon / ENERGON_FOLDER}"
    )
    return resolved, opened


def source_files(settings: WebDatasetSource) -> list[Path]:
    """The files whose hash a set keeps; nothing where an Energon data set is absent.

    Raises:
        UserError: its folder is malformed.
    """
    if settings.energon is None:
        return settings.files()
    if not settings.energon.exists():
        return [settings.energon / ENERGON_FOLDER]
    opened = EnergonFolder(settings.energon)
    return [*opened.files, *(file for tars in opened.splits.values() for file in (*tars, tars[0]))]


def _members(field_map: Mapping[str, object], where: str, notes: list[str]) -> dict[str, object]:
    fields: dict[str, tuple[str, ...]] = {}
    found: dict[str, object] = {"label": None}
    for name, access in field_map.items():
        options = [_option(text, f"{where}.{name}") for text in str(access).split(",")]
        suffixes = tuple(suffix for suffix, _ in options)
        paths = {path for _, path in options}
        if suffixes == (_LABEL_MEMBER,) and paths == {""}:
            found["label"] = _LABEL_MEMBER
        elif not all(is_known_member(suffix) for suffix in suffixes):
            notes.append(f"{where}.{name}: members that end in {', '.join(suffixes)} are left out")
        elif len(paths) > 1 or (paths != {""} and any(not suffix.endswith("json") for suffix in suffixes)):
            raise UserError(f"{where}.{name}: {_shown(access)} is not supported. {_FIX}")
        else:
            fields[name.lower()] = suffixes
            if paths != {""}:
                found["json_key"] = paths.pop()
    if not fields:
        raise UserError(f"{where}: no member of it is an image, a text or an array. {_FIX}")
    return found | {"fields": fields}


_FIX = "Give source.fields, which says which members become which field"


def _option(text: str, where: str) -> tuple[str, str]:
    """`json[a][b]` as ("json", "a.b")."""
    match = _ACCESS.fullmatch(text.strip())
    if match is None:
        raise UserError(
            f"{where}: expected a member such as jpg or json[caption], found {_shown(text)}. {_FIX}"
        )
    keys = re.findall(r"\[([^\[\]]+)\]", match[2])
    if any(key.isdecimal() or "." in key for key in keys):
        raise UserError(f"{where}: {_shown(text)} is not supported: expected names in [ ]. {_FIX}")
    return match[1].lower(), ".".join(keys)


def _read(path: Path) -> dict[str, object]:
    if path.suffix == ".yaml":
        return read_values(path, MOST_BYTES, MOST_VALUES)
    try:
        return _section(parse_json(read_plain_file(path, MOST_BYTES)), str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _section(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{where}: expected names with values, found {_shown(value)}")
    return value


def _valid(make: Callable[[], T], where: str) -> T:
    try:
        return make()
    except ValidationError as error:
        raise UserError("\n".join(f"{where}: {_said(each)}" for each in error.errors())) from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _said(error: Mapping[str, object]) -> str:
    place = error["loc"]
    assert isinstance(place, Iterable), "pydantic gives a tuple"
    return f"{'.'.join(map(str, place))}: {str(error['msg']).removeprefix('Value error, ')}"


def _shown(value: object) -> str:
    return printable(repr(value)[:80], one_line=True)
