"""The headers of all tars of a set are passed once: what is there, and what is refused before a build."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from swamp_dist.config import WebDatasetSource
from swamp_dist.errors import UserError
from swamp_dist.sources.tar_index import TarIndex

logger = logging.getLogger(__name__)

LABEL = ""
"""The role of the member with the class; fields have names."""


def check_tars(tars_of: Mapping[str, Sequence[Path]], named_in: str = "source.splits") -> None:
    """Refuse tars that are absent, or in two splits.

    Args:
        tars_of: by split, or under "" where shares divide their entries.
        named_in: where the splits stand, for messages.

    Raises:
        UserError: names the first.
    """
    split_of: dict[Path, str] = {}
    for name, tars in tars_of.items():
        setting = f"{named_in}.{name}" if name else "source.tars"
        missing = [tar for tar in tars if not tar.is_file()]
        if missing:
            raise UserError(
                f"{setting}: no such file: {missing[0]} ({len(missing):,} of {len(tars):,} are missing).\n"
                "Patterns are relative to the recipe: {000..009} and {a,b} name files that must all be "
                "there, * and ? those that are."
            )
        for tar in tars:
            other = split_of.setdefault(tar.resolve(), name)
            if other != name:
                raise UserError(f"{named_in}: {tar} is in {other} and in {name}; it may be in one split")


def pass_headers(settings: WebDatasetSource, tars_of: Mapping[str, Sequence[Path]]) -> Mapping[str, TarIndex]:
    """The index of the tars of each split; says how long it takes, once the first tar is passed.

    Raises:
        UserError: a tar is no sound one, has no entries, or none with a member of some field.
    """
    roles: dict[str, Sequence[str]] = dict(settings.fields)
    if settings.label is not None:
        roles[LABEL] = (settings.label,)
    count = sum(map(len, tars_of.values()))
    whole = sum(tar.stat().st_size for tars in tars_of.values() for tar in tars)
    logger.info("tars of webdataset: %d, %s; their headers are read first", count, _size(whole))
    begin, passed, indexes = time.monotonic(), 0, {}
    for name, tars in tars_of.items():
        index = indexes[name] = TarIndex(tars, roles)
        for number, tar in enumerate(tars):
            index.add_tar(number)
            if not passed and count > 1:
                rest = (time.monotonic() - begin) * (whole / max(1, tar.stat().st_size) - 1)
                logger.info(
                    "headers of %s: %.1f s; about %.0f s for the others", tar.name, _since(begin), rest
                )
            passed += 1
        _check_index(settings, name, index)
    entries = sum(map(len, indexes.values()))
    used = sum(index.bytes for index in indexes.values())
    logger.info(
        "entries: %d, %s in the members that are used; headers took %.1f s",
        entries, _size(used), _since(begin),
    )  # fmt: skip
    return indexes


def _check_index(settings: WebDatasetSource, split: str, index: TarIndex) -> None:
    """Say what is left aside; refuse tars without entries, or without any member of a field."""
    where = f"split {split!r}: " if split else ""
    if index.others:
        logger.info("%sfiles without a key or a suffix, which belong to no entry: %d", where, index.others)
    kinds = Counter(fault.kind for fault in index.faults.values())
    for kind, count in kinds.items():
        logger.warning("%s%s: %d of %d entries", where, kind, count, len(index))
    if not len(index):
        raise UserError(
            f"{where}the tars hold no entries: expected members KEY.SUFFIX, for example 0.jpg, 0.txt"
        )
    for field, suffixes in settings.fields.items():
        if all(index.place(field, entry) is None for entry in range(len(index))):
            raise UserError(
                f"source.fields.{field}: {where}no entry has a member that ends in {' or '.join(suffixes)}; "
                f"those of the first, {index.names[0]!r:.80}, are in {index.tar_of(0)}.\n"
                "Name the members that the tars have (tar -tf shows them), or take the field out."
            )


def _since(begin: float) -> float:
    return time.monotonic() - begin


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
