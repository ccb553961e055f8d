"""What the bytes of a tar's member become: an image, captions or an array."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swamp_dist.errors import BadEntry
from swamp_dist.npy_files import elements, read_npy_header
from swamp_dist.plain_files import parse_json
from swamp_dist.sources.captions import MALFORMED, Caption

NO_UTF8, BAD_ARRAY = "text is no UTF-8", "array malformed"
"""Kinds of BadEntry raised here."""


def decode_text(data: bytes, key: str, place: str) -> str:
    """The text of a member, without a byte order mark.

    Raises:
        BadEntry: kind NO_UTF8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadEntry(key, NO_UTF8, f"{place}: {error.reason} at byte {error.start}") from None


def decode_captions(data: bytes, json_key: str | None, key: str, place: str) -> Sequence[Caption]:
    """The captions of a member: its text or, with `json_key`, what stands there in its JSON.

    Raises:
        BadEntry: kind NO_UTF8 or MALFORMED.
    """
    text = decode_text(data, key, place)
    if json_key is None:
        return [Caption(text, place)]
    try:
        value = parse_json(text)
    except ValueError as error:
        raise BadEntry(key, MALFORMED, f"{place}: not valid JSON: {error}") from None
    for part in json_key.split("."):
        if not isinstance(value, dict):
            raise BadEntry(key, MALFORMED, f"{place}: {json_key!r} leads into something that is no object")
        value = value.get(part)
    return [Caption(each, place) for each in (value if isinstance(value, list) else [value])]


def decode_array(data: bytes, key: str, place: str) -> NDArray[Any]:
    """The array of an npy file, in C order and in the byte order of this machine.

    Raises:
        BadEntry: kind BAD_ARRAY; another file, objects or texts, or a length other than its header says.
    """
    file = io.BytesIO(data)
    try:
        header = read_npy_header(file)
        content = data[file.tell() :]
        if header.dtype.kind not in "biuf":
            raise ValueError(f"expected numbers, found {header.dtype}")
        if len(content) != header.bytes:
            raise ValueError(f"{len(content)} bytes of data for {header.dtype} {header.shape}")
        flat = elements(content, header.dtype)
    except ValueError as error:
        raise BadEntry(key, BAD_ARRAY, f"{place}: {error}") from None
    array: NDArray[Any] = flat.reshape(header.shape, order="F" if header.fortran else "C")
    return np.asarray(array, header.dtype.newbyteorder("="), order="C")
