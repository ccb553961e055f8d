"""Ids of public sets as keys that are safe in file names, and back; and the share held out for validation.

A YouTube id may begin with `-` or `_`, and a clip id of LSMDC has dots, so no id is a key as it stands:

    v_ID     the id as it is (letters, digits, `-` and `_`)
    x_ID     an id with other characters: `-` is written `--`, `.` is `-p`, any other byte is `-` and two
             hex digits
    v3_ID    item 3 of a video (segment, sentence); likewise x3_ID
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from swamp_dist.errors import UserError

T = TypeVar("T")

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_KEY = re.compile(r"([vx])(\d*)_([A-Za-z0-9_-]*)")
_ESCAPED = re.compile(r"(?:-(?:-|p|[0-9a-f]{2}))+")


def entry_key(identity: str, number: int | None = None) -> str:
    """The key of a video or clip id, or of item `number` of it; `identity_of` is its inverse."""
    if not identity:
        raise UserError("an id is empty; every row of a list needs one")
    tail = "" if number is None else str(number)
    if _PLAIN.fullmatch(identity):
        return f"v{tail}_{identity}"
    return f"x{tail}_{''.join(_escape(byte) for byte in identity.encode())}"


def identity_of(key: str) -> tuple[str, int | None]:
    """The id and item number that `entry_key` made the key of; UserError for any other text."""
    parts = _KEY.fullmatch(key)
    if not parts:
        raise UserError(f"{key!r} is not the key of a video or clip: expected v_ID, x_ID or v3_ID")
    number = int(parts[2]) if parts[2] else None
    if parts[1] == "v":
        return parts[3], number
    raw = _ESCAPED.sub(lambda found: _unescape(found[0]), parts[3])
    return raw.encode("latin1").decode("utf-8"), number


def numbered_keys(identities: Sequence[str]) -> list[str]:
    """A key a row where ids may repeat: the first row of an id has no number, the next ones 1, 2, ..."""
    seen: Counter[str] = Counter()
    keys = []
    for identity in identities:
        keys.append(entry_key(identity, seen[identity] or None))
        seen[identity] += 1
    return keys


def placed_keys(keys: Sequence[str]) -> list[str]:
    """Keys that sort as the rows do, whose order a protocol may need, and differ where ids repeat:
    000012_v_ID."""
    digits = max(6, len(str(len(keys))))
    return [f"{row:0{digits}d}_{key}" for row, key in enumerate(keys)]


def is_held_out(group: str, share: float) -> bool:
    """Whether a video (or movie) belongs to the validation share: a keyed hash of its id, the same on
    every machine and for every list that it is in. A larger share contains every smaller one.
    """
    digest = hashlib.blake2b(group.encode(), key=b"validation", digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


def cut_validation(items: Sequence[T], group_of: Callable[[T], str], share: float) -> Mapping[str, list[T]]:
    """`train`, and with a `share` above 0 `validation`: items of one group stay together and in order.

    Raises:
        UserError: with a share above 0, one of the two has no item.
    """
    parts: dict[str, list[T]] = {"train": [], "validation": []}
    for item in items:
        parts["validation" if is_held_out(group_of(item), share) else "train"].append(item)
    if share == 0:
        return {"train": parts["train"]}
    for name, part in parts.items():
        if not part:
            raise UserError(
                f"source.validation_share = {share} leaves no entry for {name!r} of {len(items)} in the "
                "training list: whole videos or movies go to one side.\nFix: change the share, or set 0."
            )
    return parts


def _escape(byte: int) -> str:
    character = chr(byte)
    if character == "-":
        return "--"
    if character == ".":
        return "-p"
    return character if _PLAIN.fullmatch(character) else f"-{byte:02x}"


def _unescape(run: str) -> str:
    parts = re.findall(r"--|-p|-[0-9a-f]{2}", run)
    known = {"--": "-", "-p": "."}
    return "".join(known.get(part) or chr(int(part[1:], 16)) for part in parts)
