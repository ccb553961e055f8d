"""Splits that come from files of their own: classes and groups mean the same in all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from swamp_dist.errors import UserError
from swamp_dist.sources.entry_columns import Entries


def join_splits(entries_of: Mapping[str, Entries]) -> dict[str, Entries]:
    """The entries of every split with classes that are numbered over all of them: names as they first appear,
    in the order of the splits; numbers stand as they are.

    Raises:
        UserError: classes have names in one split and numbers in another, or a group is in two splits.
    """
    _check_groups(entries_of)
    named = [name for name, entries in entries_of.items() if entries.class_names]
    if not named:
        return dict(entries_of)
    for name, entries in entries_of.items():
        if name not in named and any(label >= 0 for label in entries.labels):
            raise UserError(
                f"source.label: classes of split {named[0]!r} are names, those of {name!r} numbers.\n"
                "Write both as names, or both as numbers."
            )
    texts = (text for name in named for text in entries_of[name].class_names if text)
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return {
        name: replace(entries, labels=[numbers.get(text, -1) for text in entries.class_names])
        if entries.class_names
        else entries
        for name, entries in entries_of.items()
    }


def _check_groups(entries_of: Mapping[str, Entries]) -> None:
    split_of: dict[str, str] = {}
    for name, entries in entries_of.items():
        for group in entries.groups:
            other = split_of.setdefault(group, name)
            if other != name:
                raise UserError(
                    f"source.group: group {group!r} is in the splits {other!r} and {name!r}; entries of a "
                    "group are in one split.\nCorrect the files, or leave source.group out."
                )
