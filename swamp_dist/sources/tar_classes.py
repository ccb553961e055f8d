"""Classes of entries in tars: numbers as they stand, or names, which are numbered over the whole set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from swamp_dist.errors import BadEntry, UserError
from swamp_dist.plain_files import open_plain_file
from swamp_dist.printable import printable
from swamp_dist.sources.tar_fields import decode_text
from swamp_dist.sources.tar_index import TarIndex

NO_CLASS = "no class number"
"""Kind of BadEntry raised here."""
MOST_LETTERS = 200
"""Of a class name."""
_NUMBER = re.compile(r"-1|\d{1,9}", re.ASCII)
_MOST_BYTES = 8 * MOST_LETTERS


def number_classes(indexes: Iterable[TarIndex], role: str) -> dict[str, int]:
    """The number of each class name of a set, from 0 in the order of their letters (code points), so that it
    depends neither on the order of the tars nor on splits. Empty where the members hold numbers.

    Every member of `role` that is small enough is read, in the order of the tars; a name is a text with a
    letter in it. Texts that are neither name nor number are left to `decode_class`.

    Raises:
        UserError: some members hold names and others numbers; names one of each.
    """
    names: dict[str, str] = {}
    number = None
    for place, text in _class_texts(indexes, role):
        if _is_name(text):
            names.setdefault(text, place)
        elif number is None and text != "-1" and _NUMBER.fullmatch(text):
            number = f"{place} has the number {text}"
    if names and number is not None:
        name, place = next(iter(names.items()))
        raise UserError(
            f"source.label: {number}, {place} the name {printable(name, one_line=True)!r}.\nWrite classes as "
            "numbers everywhere, or as names everywhere (-1 is no class); label: null leaves them out."
        )
    return {name: i for i, name in enumerate(sorted(names))}


def decode_class(data: bytes, numbers: Mapping[str, int], key: str, place: str) -> tuple[int, str | None]:
    """The class number of a member, -1 for none, and its name where classes have names.

    Args:
        numbers: as `number_classes` gives them.

    Raises:
        BadEntry: kind NO_UTF8 or NO_CLASS.
    """
    text = decode_text(data, key, place).strip()
    if text in numbers:
        return numbers[text], text
    if _NUMBER.fullmatch(text) and (not numbers or text == "-1"):
        return int(text), None
    expected = f"a name of at most {MOST_LETTERS} letters" if numbers else "a class number from 0"
    raise BadEntry(key, NO_CLASS, f"{place}: expected {expected} (-1: none), found {text[:40]!r}")


def _is_name(text: str) -> bool:
    return len(text) <= MOST_LETTERS and any(letter.isalpha() for letter in text)


def _class_texts(indexes: Iterable[TarIndex], role: str) -> Iterator[tuple[str, str]]:
    """(TAR, KEY) as a text and what the member holds, of all entries that are sound so far."""
    for index in indexes:
        file = opened = None
        try:
            for entry, key in enumerate(index.names):
                found = index.place(role, entry)
                if found is None or entry in index.faults or found.size > _MOST_BYTES:
                    continue
                tar = index.tar_of(entry)
                if tar is not opened or file is None:
                    if file is not None:
                        file.close()
                    file, opened = open_plain_file(tar), tar
                file.seek(found.offset)
                try:
                    text = decode_text(file.read(found.size), key, "")
                except BadEntry:
                    continue  # reading the entry counts it
                yield f"{tar}, {printable(key, one_line=True)[:200]!r}", text.strip()
        finally:
            if file is not None:
                file.close()
