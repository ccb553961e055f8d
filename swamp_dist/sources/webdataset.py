"""Tars of a user's own in webdataset's layout: members are read by their place in the tars."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swamp_dist.config import WebDatasetSource
from swamp_dist.config.own_tars import member_kind
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.plain_files import open_plain_file
from swamp_dist.printable import printable
from swamp_dist.records import RawSplit, Sample
from swamp_dist.sources.captions import kept_texts
from swamp_dist.sources.energon import EnergonFolder, resolve, source_files
from swamp_dist.sources.entry_columns import MEMBER_NAME_BYTES
from swamp_dist.sources.entry_keys import entry_key
from swamp_dist.sources.entry_splits import draw_splits
from swamp_dist.sources.raw_files import check_files
from swamp_dist.sources.tar_classes import decode_class, number_classes
from swamp_dist.sources.tar_fields import decode_array, decode_captions
from swamp_dist.sources.tar_index import TarIndex
from swamp_dist.sources.tar_survey import LABEL, check_tars, pass_headers

logger = logging.getLogger(__name__)

TOO_LARGE = "member too large"
"""Kind of BadEntry raised here, besides `no FIELD` of a member that is absent."""
MOST_BYTES = 64 * 2**20
"""Of an image or an array: what a member of a shard may have."""
MOST_TEXT_BYTES = 2**20
"""Of a text, a JSON or a class number."""
_TIMED_ENTRIES = 32


@dataclass(frozen=True)
class Tars:
    """The tars of one pattern, indexed: makes samples one by one."""

    settings: WebDatasetSource
    index: TarIndex
    keys: Sequence[str]
    """Of all entries, safe in file names."""
    changed: Mapping[Path, int]
    """When each tar was changed last, as it was indexed, in ns."""
    classes: Mapping[str, int]
    """Class numbers by name; empty where members hold numbers."""

    def read(self, entry: int) -> Sample:
        """Entry number `entry` of the tars.

        Raises:
            BadEntry: the index has found a fault, a member is absent, too large or malformed.
            UserError: the tar was changed since it was indexed.
        """
        key, name = self.keys[entry], self.index.names[entry]
        self._check(entry)
        fields: dict[str, Any] = {}
        for field, suffixes in self.settings.fields.items():
            kind = member_kind(suffixes)
            if kind in ("image", "array"):
                data = self._content(field, entry)
                fields[field] = data if kind == "image" else decode_array(data, key, self._place(entry))
        label, beside = -1, {"key": printable(name, one_line=True)}
        if self.settings.label is not None and self.index.place(LABEL, entry) is not None:
            data = self._content(LABEL, entry)
            label, class_name = decode_class(data, self.classes, key, self._place(entry))
            beside |= {} if class_name is None else {"label": class_name}
        return Sample(key, fields, label, beside, self.texts(entry))

    def texts(self, entry: int) -> tuple[str, ...]:
        """Captions of an entry that are kept; raises BadEntry where they are refused."""
        field = self.settings.caption_field
        if field is None:
            return ()
        self._check(entry)
        key, place = self.keys[entry], self._place(entry)
        captions = decode_captions(self._content(field, entry), self.settings.json_key, key, place)
        return kept_texts(captions, key, self.settings.wordless, place)

    def captions(self, entries: Sequence[int]) -> Iterator[Sequence[str]]:
        """Captions of these entries in turn; none where `read` would refuse them."""
        for entry in entries:
            try:
                yield self.texts(entry)
            except BadEntry:
                yield ()

    def split(self, entries: Sequence[int]) -> RawSplit:
        """These entries as a raw split."""
        keys = [self.keys[entry] for entry in entries]
        if self.settings.caption_field is None:
            return RawSplit(keys, lambda i: self.read(entries[i]))
        return RawSplit(
            keys,
            lambda i: self.read(entries[i]),
            lambda: self.captions(entries),
            self.settings.caption_field,
        )

    def _check(self, entry: int) -> None:
        fault = self.index.faults.get(entry)
        if fault is not None:
            raise BadEntry(self.keys[entry], fault.kind, f"{self._place(entry)}: {fault.finding}")

    def _content(self, role: str, entry: int) -> bytes:
        """The bytes of a member, once it is known to be there and small enough."""
        key, found = self.keys[entry], self.index.place(role, entry)
        if found is None:
            raise BadEntry(key, f"no {role}", f"{self._place(entry)}: no {' or '.join(self._suffixes(role))}")
        is_large = role != LABEL and member_kind(self.settings.fields[role]) in ("image", "array")
        most = MOST_BYTES if is_large else MOST_TEXT_BYTES
        if found.size > most:
            finding = f"{self._suffixes(role)[0]} of {found.size:,} bytes; {most:,} may be"
            raise BadEntry(key, TOO_LARGE, f"{self._place(entry)}: {finding}")
        path = self.index.tar_of(entry)
        with open_plain_file(path) as file:
            if path.stat().st_mtime_ns != self.changed[path]:
                raise UserError(
                    f"{path} was changed since the build began, and members are read by their place.\n"
                    "Run the command again."
                )
            file.seek(found.offset)
            return file.read(found.size)

    def _suffixes(self, role: str) -> Sequence[str]:
        return self.index.roles[role]

    def _place(self, entry: int) -> str:
        """For messages: TAR, KEY."""
        return f"{self.index.tar_of(entry)}, {printable(self.index.names[entry], one_line=True)[:200]!r}"


def open_splits(settings: WebDatasetSource) -> Mapping[str, RawSplit]:
    """The splits by name; the headers of all tars are passed once, contents are read one by one.

    Raises:
        UserError: a pattern names no file or two splits name one, a tar is compressed or damaged, no entry
            has the members of a field, a split is left without entries, Energon's folder is malformed, or
            classes are numbers and names.
    """
    check_files(source_files(settings), settings.sha256)
    settings, energon = resolve(settings)
    tars_of = settings.tars_of()
    check_tars(tars_of, "source.splits" if energon is None else f"{energon.files[0]}: split_parts")
    indexes = pass_headers(settings, tars_of)
    classes = {} if settings.label is None else number_classes(indexes.values(), LABEL)
    opened = {name: _open_tars(settings, index, classes) for name, index in indexes.items()}
    _say_reading_time(list(opened.values()))
    if energon is not None:
        return _without_excluded(opened, energon)
    if settings.splits:
        return {name: tars.split(range(len(tars.keys))) for name, tars in opened.items()}
    (tars,) = opened.values()
    rows: dict[str, list[int]] = {name: [] for name in settings.shares}
    for row, name in enumerate(draw_splits(tars.index.names, settings.shares, settings.seed)):
        rows[name].append(row)
    return {name: tars.split(of) for name, of in rows.items()}


def _without_excluded(opened: Mapping[str, Tars], energon: EnergonFolder) -> dict[str, RawSplit]:
    """The splits without the samples that `exclude` of `split.yaml` names."""
    splits, count = {}, 0
    for name, tars in opened.items():
        index = tars.index
        energon.check_counts(Counter(index.tar_of(entry) for entry in range(len(index))))
        kept = [
            entry
            for entry, key in enumerate(index.names)
            if not energon.is_excluded(index.tar_of(entry), key)
        ]
        if not kept:
            raise UserError(f"{energon.files[0]}: exclude names every sample of split {name!r}")
        count += len(index) - len(kept)
        splits[name] = tars.split(kept)
    if energon.excluded:
        logger.info(
            "samples that %s excludes: %d of %d named", energon.files[0], count, energon.excluded_samples()
        )
    return splits


def item_fields(settings: WebDatasetSource) -> frozenset[str]:
    """No field of the samples has several items; that of the captions, which a build adds, has."""
    return frozenset()


def safe_key(name: str, repeat: int, longest_suffix: str) -> str:
    """The key of an entry as shards may have it: that of `entry_key` or, where that is too long for the name
    of a file in a tar, `h_START_HASH` with 128 bits of a hash of it.

    Args:
        name: the key in the tar.
        repeat: entries of that name before this one.
        longest_suffix: of the entry's members in a shard.
    """
    key = entry_key(name, repeat or None)
    if len(key) + 1 + len(longest_suffix) <= MEMBER_NAME_BYTES:
        return key
    digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    start = re.sub(r"[^A-Za-z0-9_-]", "_", name)[: MEMBER_NAME_BYTES - len(longest_suffix) - 36]
    return f"h_{start}_{digest}"


def _open_tars(settings: WebDatasetSource, index: TarIndex, classes: Mapping[str, int]) -> Tars:
    suffix = max((*(f"{name}.webp" for name in settings.fields), "entry.json"), key=len)
    keys = [safe_key(name, index.repeats.get(i, 0), suffix) for i, name in enumerate(index.names)]
    return Tars(settings, index, keys, {tar: tar.stat().st_mtime_ns for tar in index.tars}, classes)


def _say_reading_time(opened: Sequence[Tars]) -> None:
    """How long reading all entries takes at the rate of some that are spread over them."""
    count = sum(len(tars.keys) for tars in opened)
    timed, begin = 0, time.monotonic()
    for tars in opened:
        for entry in range(0, len(tars.keys), -(-count // _TIMED_ENTRIES)):
            try:
                tars.read(entry)
            except BadEntry:
                continue  # the build counts it
            timed += 1
    if timed:
        seconds = (time.monotonic() - begin) / timed * count
        logger.info("reading all entries takes about %.1f s, their checks and writing more", seconds)
