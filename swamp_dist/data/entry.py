"""One entry of a shard: `KEY.entry.json` and a member for each field, checked so that no two entries can mix.

`KEY.FIELD.npy` is an array, `.jpg`, `.png` or `.webp` an encoded image, `.txt` a text, `.json` several texts.

The json member repeats the key and holds a checksum of every field. A field file that belongs to
another entry, and any changed bit in one, is therefore a named error instead of a wrong pair. An entry of
a video has megabytes of features, so the checksum is xxh3, which keeps up with memory; crc32 would take
longer than all other work on such an entry.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from swamp_dist.data.manifest import FieldSpec
from swamp_dist.data.raw_fields import ENTRY, decode_raw, encode_raw, raw_suffixes
from swamp_dist.errors import UserError
from swamp_dist.npy_files import read_npy_header
from swamp_dist.records import Sample

Payload = bytes | memoryview
"""Bytes of a member; a view where the whole entry is in memory."""


class ShardError(UserError):
    """A shard whose bytes are not what the manifest promises: names file, entry, field and finding."""


@dataclass(frozen=True)
class Entry:
    """A decoded entry: its index in the split, and its fields by name."""

    index: int
    key: str
    label: int
    arrays: Mapping[str, np.ndarray]
    """Read-only arrays; a field with several items has them on the leading axis. Images and texts are
    objects, `bytes` and `str`: 0-d, or (items,) where there are several."""
    text: Mapping[str, str]
    """Human-readable originals."""


def shard_error(file: Path, key: str | None, finding: str, fix: str | None = None) -> ShardError:
    """The error of a damaged shard, with what to do about it."""
    where = f"{file}, entry {key!r}" if key is not None else str(file)
    usual = "The file is damaged or not of this shard set. Copy it again or build the set again."
    return ShardError(f"{where}: {finding}.\n{fix or usual}")


class EntryText(Mapping[str, str]):
    """The originals in an entry's json, which is parsed at the first look at them: few readers need any."""

    def __init__(self, header: bytes, key: str, label: int, file: Path) -> None:
        """`header`: the json, which may be followed by the padding of its member."""
        self._from = header, key, label, file

    @cached_property
    def _texts(self) -> Mapping[str, str]:
        header, key, label, file = self._from
        texts: dict[str, str] = _read_header({ENTRY: header.rstrip(b"\0")}, key, label, file)["text"]
        return texts

    def __getitem__(self, name: str) -> str:
        return self._texts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __repr__(self) -> str:
        return repr(dict(self._texts))


def encode_entry(sample: Sample) -> list[tuple[str, bytes]]:
    """Members of a sample's entry as (suffix, bytes), the json first."""
    encoded = {name: _encode(value) for name, value in sample.fields.items()}
    payloads = {name: payload for name, (_, payload) in encoded.items()}
    header = {
        "key": sample.key,
        "label": sample.label,
        "xxh3": {name: xxhash.xxh3_64_hexdigest(payload) for name, payload in payloads.items()},
        "text": dict(sample.text),
    }
    members = [(ENTRY, json.dumps(header, ensure_ascii=True).encode())]
    return members + [(f"{name}.{suffix}", payload) for name, (suffix, payload) in encoded.items()]


def _encode(value: np.ndarray | bytes | str | tuple[str, ...]) -> tuple[str, bytes]:
    """The last part of a member's name, and its bytes."""
    if not isinstance(value, np.ndarray):
        return encode_raw(value)
    buffer = io.BytesIO()
    plain = np.asarray(value, order="C")  # ascontiguousarray would give a single number an axis
    np.lib.format.write_array(buffer, plain, version=(1, 0), allow_pickle=False)
    return "npy", buffer.getvalue()


def decode_entry(
    members: Mapping[str, Payload],
    index: int,
    key: str,
    label: int | None,
    specs: Mapping[str, FieldSpec],
    wanted: tuple[str, ...],
    file: Path,
) -> Entry:
    """The entry that these members (bytes by suffix) hold; fields outside `wanted` are not decoded.

    Where the index cannot be trusted, `label` None takes the entry's own word for it.

    Raises:
        ShardError: another key or label than the index says, a member missing or too many, a checksum
            that does not match, a dtype or shape other than the manifest's, text that is no UTF-8.
    """
    header = _read_header(members, key, label, file)
    suffixes = {name: member_suffix(members, name, spec) for name, spec in specs.items()}
    expected = {ENTRY, *suffixes.values()}
    if members.keys() != expected:
        raise shard_error(file, key, f"expected members {sorted(expected)}, found {sorted(members)}")
    arrays = {
        name: _decode_field(members[suffixes[name]], header, name, specs[name], key, file) for name in wanted
    }
    return Entry(index, key, header["label"], arrays, header["text"])


def member_suffix(members: Mapping[str, Payload], name: str, spec: FieldSpec) -> str:
    """The member that holds a field; images have one of several. Of none that is there, the first."""
    possible = _possible_suffixes(name, spec)
    return next((suffix for suffix in possible if suffix in members), possible[0])


@lru_cache(maxsize=1024)
def _possible_suffixes(name: str, spec: FieldSpec) -> tuple[str, ...]:
    return tuple(f"{name}.{ending}" for ending in raw_suffixes(spec))


def _read_header(members: Mapping[str, Payload], key: str, label: int | None, file: Path) -> dict[str, Any]:
    try:
        header = json.loads(str(members.get(ENTRY, b""), "utf-8"))
    except (ValueError, RecursionError):
        header = None
    # Written out: this runs for every entry that is read.
    if not (
        isinstance(header, dict)
        and isinstance(header.get("key"), str)
        and isinstance(header.get("label"), int)
        and isinstance(header.get("text"), dict)
    ):
        raise shard_error(file, key, f"{ENTRY} is missing or cannot be read")
    if header["key"] != key or (label is not None and header["label"] != label):
        found = (header["key"], header["label"])
        raise shard_error(file, key, f"mispaired: {ENTRY} says {found}, expected {(key, label)}")
    return header


def _decode_field(
    payload: Payload, header: Mapping[str, Any], name: str, spec: FieldSpec, key: str, file: Path
) -> np.ndarray:
    recorded = header.get("xxh3")
    expected = recorded.get(name) if isinstance(recorded, dict) else None
    found = xxhash.xxh3_64_hexdigest(payload)
    if found != expected:
        raise shard_error(
            file,
            key,
            f"field {name!r} does not belong to this entry or is damaged: "
            f"xxh3 {expected} expected, {found} found",
        )
    if spec.kind != "array":
        try:
            return decode_raw(payload, spec)
        except ValueError as error:
            raise shard_error(file, key, f"field {name!r}: {error}") from None
    try:
        array = decode_npy(payload)
    except ValueError as error:
        raise shard_error(file, key, f"field {name!r} is not a plain npy array: {error}") from None
    if not spec.fits(array.dtype, array.shape):
        raise shard_error(file, key, f"field {name!r}: expected {spec}, found {array.dtype} {array.shape}")
    return array


def decode_npy(payload: Payload) -> np.ndarray:
    """A read-only array over the bytes of a plain npy file (version 1.0, C order, no objects).

    Raises:
        ValueError: anything else, or a length that differs from what the header says.
    """
    if payload[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError("no npy 1.0 magic")
    start = 10 + int.from_bytes(payload[8:10], "little")
    dtype, shape = _parse_npy_header(bytes(payload[:start]))
    if math.prod(shape) * dtype.itemsize != len(payload) - start:
        raise ValueError(f"{len(payload) - start} bytes of data for {dtype} {shape}")
    return np.frombuffer(payload, dtype, offset=start).reshape(shape)


@lru_cache(maxsize=1024)
def _parse_npy_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Entries share a handful of headers, and parsing one costs more than reading a small array."""
    found = read_npy_header(io.BytesIO(header))
    if found.fortran or found.dtype.kind not in "biuf":
        raise ValueError(f"dtype {found.dtype} with Fortran order {found.fortran} is not allowed")
    return found.dtype, found.shape
