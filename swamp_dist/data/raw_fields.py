"""Images and texts as they lie in an entry: encoded files and UTF-8, which every tool of webdataset reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from swamp_dist.data.manifest_records import FieldSpec

ENTRY = "entry.json"
"""The member of every entry that repeats its key and holds the checksums."""
IMAGE_SUFFIXES = ("jpg", "png", "webp")


def image_format(data: bytes | memoryview) -> str | None:
    """`jpg`, `png` or `webp` by the first bytes of a file; None for anything else."""
    start = bytes(data[:16])
    if start.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    return "webp" if start[:4] == b"RIFF" and start[8:12] == b"WEBP" else None


def raw_suffixes(spec: FieldSpec) -> tuple[str, ...]:
    """Endings that a member of such a field can have."""
    if spec.kind == "image":
        return IMAGE_SUFFIXES
    if spec.kind == "text":
        return ("json",) if spec.items else ("txt",)
    return ("npy",)


def encode_raw(value: bytes | str | tuple[str, ...]) -> tuple[str, bytes]:
    """Ending and bytes of the member that holds an image, a text or several texts.

    Raises:
        ValueError: bytes that are no image of the three formats, or text that is no UTF-8.
    """
    if isinstance(value, bytes):
        suffix = image_format(value)
        if suffix is None:
            raise ValueError(f"bytes that begin with {value[:8]!r} are no JPEG, PNG or WebP")
        return suffix, value
    if isinstance(value, str):
        return "txt", value.encode()
    return "json", json.dumps(value, ensure_ascii=False).encode()


def decode_raw(payload: bytes | memoryview, spec: FieldSpec) -> np.ndarray:
    """An image's bytes or a text as a 0-d array of one object, several texts as (items,) objects.

    Raises:
        ValueError: a file of another format, or text that is no UTF-8 or no list of texts.
    """
    if spec.kind == "image":
        data = bytes(payload)  # a copy: the memory behind a view is used again
        if image_format(data) is None:
            raise ValueError(f"bytes that begin with {data[:8]!r} are no JPEG, PNG or WebP")
        return objects(data)
    text = bytes(payload).decode()
    if not spec.items:
        return objects(text)
    try:
        texts = json.loads(text)
    except RecursionError:
        texts = None
    if not isinstance(texts, list) or not texts or not all(isinstance(each, str) for each in texts):
        raise ValueError("expected a json list of at least one text")
    for each in texts:
        each.encode()  # json can spell half of a surrogate pair
    return objects(tuple(texts))


def objects(value: bytes | str | tuple[bytes | str, ...]) -> np.ndarray:
    """A value as a 0-d array of one object, several as (n,): never converted, whatever they hold."""
    several = isinstance(value, tuple)
    array: np.ndarray = np.empty(len(value) if several else (), dtype=object)
    array[...] = value
    return array


def raw_bytes(rows: np.ndarray) -> int:
    """Size of the items of a column in memory, of objects that of their content."""
    if rows.dtype != object:
        return rows.nbytes
    return sum(item.nbytes if isinstance(item, np.ndarray) else len(item) for item in rows.flat)
