"""Where the members of each entry lie in tars of webdataset's layout.

The key of a member is its name up to the first dot of the base name, folders included; the rest, in lower
case, is its suffix. Members of an entry stand one after the other in one tar. A key that comes again later is
another entry, which is refused, so that halves of two entries never become one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from swamp_dist.sources.tar_headers import TarMember, tar_members

NO_FILE, UNSAFE_NAME = "member is no file", "unsafe member name"
DUPLICATE_KEY, DUPLICATE_MEMBER = "duplicate key", "duplicate member"
"""Kinds of BadEntry found here."""


class Fault(NamedTuple):
    """Why an entry cannot be used."""

    kind: str
    finding: str


class Place(NamedTuple):
    """Where a member lies in its tar."""

    offset: int
    size: int


@dataclass
class TarIndex:
    """Entries of several tars in their order, and of each the members that are asked for."""

    tars: Sequence[Path]
    roles: Mapping[str, Sequence[str]]
    """Suffixes by what is made of them; the first that an entry has is taken. Of other members nothing
    is kept."""
    names: list[str] = field(default_factory=list)
    """Keys as the tars have them; a duplicate stands again."""
    repeats: dict[int, int] = field(default_factory=dict)
    """By entry, of a duplicate: how many entries of its key stand before it."""
    faults: dict[int, Fault] = field(default_factory=dict)
    """By entry."""
    others: int = 0
    """Files whose name has no suffix; they belong to no entry."""
    bytes: int = 0
    """Of the members that are asked for."""

    def __post_init__(self) -> None:
        self._tar_of = array("l")
        self._wanted = {suffix for suffixes in self.roles.values() for suffix in suffixes}
        self._places = {role: (array("q"), array("q")) for role in self.roles}
        self._seen: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.names)

    def tar_of(self, entry: int) -> Path:
        """The tar that an entry is in."""
        return self.tars[self._tar_of[entry]]

    def place(self, role: str, entry: int) -> Place | None:
        """Where the member for a role lies; None where the entry has none."""
        offsets, sizes = self._places[role]
        return None if offsets[entry] < 0 else Place(offsets[entry], sizes[entry])

    def add_tar(self, number: int) -> None:
        """Add the entries of tar `number`; raises UserError where it is no sound tar."""
        path = self.tars[number]
        for key, members in groupby(self._named(path), key=lambda named: named[0]):
            self._add(key, number, ((suffix, member) for _, suffix, member in members))

    def _named(self, path: Path) -> Iterator[tuple[str, str, TarMember]]:
        for member in tar_members(path):
            if member.kind == "folder":
                continue
            split = split_name(member.name)
            if split is None:
                self.others += 1
                continue
            yield (*split, member)

    def _add(self, key: str, tar: int, members: Iterable[tuple[str, TarMember]]) -> None:
        entry, before = len(self.names), self._seen.get(key, 0)
        self.names.append(key)
        self._tar_of.append(tar)
        self._seen[key] = before + 1
        by_suffix: dict[str, TarMember] = {}
        fault = Fault(DUPLICATE_KEY, "its key stands before, in this tar or another one") if before else None
        for suffix, member in members:
            fault = fault or _fault(member, suffix in by_suffix)
            if suffix in self._wanted:
                by_suffix.setdefault(suffix, member)
        if before:
            self.repeats[entry] = before
        if fault is not None:
            self.faults[entry] = fault
        for role, suffixes in self.roles.items():
            found = next((by_suffix[suffix] for suffix in suffixes if suffix in by_suffix), None)
            offsets, sizes = self._places[role]
            offsets.append(-1 if found is None else found.offset)
            sizes.append(0 if found is None else found.size)
            self.bytes += 0 if found is None or fault is not None else found.size


def split_name(name: str) -> tuple[str, str] | None:
    """Key and suffix of a member's name by webdataset's rule; None where its base name has no both."""
    path = PurePosixPath(name)
    stem, dot, suffix = path.name.partition(".")
    if not stem or not dot or not suffix:
        return None
    return str(path.with_name(stem)), suffix.lower()


def _fault(member: TarMember, is_repeated: bool) -> Fault | None:
    shown = repr(member.name[:80])
    if member.kind != "file":
        return Fault(NO_FILE, f"{shown} is {member.kind}")
    parts = PurePosixPath(member.name)
    if parts.is_absolute() or ".." in parts.parts:
        return Fault(UNSAFE_NAME, f"{shown} is absolute or has `..`")
    return Fault(DUPLICATE_MEMBER, f"{shown} stands twice") if is_repeated else None
