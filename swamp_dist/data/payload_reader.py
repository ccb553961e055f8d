"""Reads entries by the payload index: no tar header and no json is parsed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import xxhash

from swamp_dist.data.entry import Entry, EntryText, decode_npy, shard_error
from swamp_dist.data.manifest import FieldSpec, SplitIndex, index_hint
from swamp_dist.data.payload_index import frame_xxh3, payload_file, read_payloads
from swamp_dist.data.raw_fields import decode_raw
from swamp_dist.data.seek_reader import Row, SeekReader
from swamp_dist.data.tar import BLOCK

_KEPT_HEADERS = 1024
_LEAST_NPY = 10


class PayloadReader(SeekReader):
    """One positioned read per entry, found sound by checksums alone.

    Every byte that `SeekReader` looks at is under a checksum of the payload index: the fields that are wanted
    and the frame around all fields, whose tar headers name them. Where one differs, `SeekReader` decodes the
    bytes and names the damage.
    """

    def __init__(self, split: SplitIndex, specs: Mapping[str, FieldSpec], fields: tuple[str, ...]) -> None:
        """Map the payload index.

        Raises:
            UserError: as `read_payloads`.
        """
        super().__init__(split, specs, fields)
        _ = self._numbers  # a bad file is told before the first batch
        places = {name: 1 + 3 * number for number, name in enumerate(sorted(specs))}
        self._places = tuple(places.values())
        self._wanted = [
            (name, f".{name}.".encode(), places[name], _field_decoder(specs[name])) for name in fields
        ]

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_numbers", None)  # a process maps its own, at its first read
        return state

    @cached_property
    def _numbers(self) -> np.ndarray:
        """(N, 1 + 3 fields) the frame's checksum, then offset, size and checksum of each field: plain
        numbers, since structured rows become Python objects slowly."""
        rows = read_payloads(self.split, self.specs)
        return rows.view("<u8").reshape(len(rows), -1)

    def _decode(self, index: int, row: Row, data: memoryview) -> Entry:
        entry = self._checked(index, row, data)
        return self._explain(index, row, data) if entry is None else entry

    def _checked(self, index: int, row: Row, data: memoryview) -> Entry | None:
        """The entry, or None where it is not as the payload index has it."""
        key, shard, offset, _, label = row
        numbers: list[int] = self._numbers[index].tolist()
        spans = sorted([(at := numbers[i] - offset, at + numbers[i + 1]) for i in self._places])
        if frame_xxh3(key, label, data, spans) != numbers[0]:
            return None
        arrays, named = {}, len(key) - BLOCK
        for name, name_there, place, decode in self._wanted:
            first = numbers[place] - offset
            at = first + named  # in the header, behind its key
            if data[at : at + len(name_there)] != name_there:
                return None
            payload = data[first : first + numbers[place + 1]]
            if xxhash.xxh3_64_intdigest(payload) != numbers[place + 2]:
                return None
            array = decode(payload)
            if array is None:
                return None
            arrays[name] = array
        header = bytes(data[BLOCK : spans[0][0] - BLOCK])  # a copy: the memory is used again
        return Entry(index, key, label, arrays, EntryText(header, key, label, self.split.shard_path(shard)))

    def _explain(self, index: int, row: Row, data: memoryview) -> Entry:
        """Raise the error of an entry that is not as the payload index has it."""
        super()._decode(index, row, data)
        name = payload_file(self.split.name)
        raise shard_error(
            self.split.shard_path(row[1]),
            row[0],
            f"row {index} of {name} does not agree with it, though its own checksums do",
            index_hint(self.split.folder),
        )


Decoder = Callable[[memoryview], np.ndarray | None]
"""A field's value of a payload whose checksum is right; None where it is not what the manifest promises."""


def _field_decoder(spec: FieldSpec) -> Decoder:
    return _NpyDecoder(spec) if spec.kind == "array" else _RawDecoder(spec)


class _RawDecoder:
    """Images and texts."""

    def __init__(self, spec: FieldSpec) -> None:
        self._spec = spec

    def __call__(self, payload: memoryview) -> np.ndarray | None:
        try:
            return decode_raw(payload, self._spec)
        except ValueError:
            return None


class _NpyDecoder:
    """Arrays. Entries share a handful of npy headers; each is parsed and compared with the manifest once."""

    def __init__(self, spec: FieldSpec) -> None:
        self._spec = spec
        self._known: dict[bytes, tuple[tuple[int, ...], np.dtype, int]] = {}

    def __call__(self, payload: memoryview) -> np.ndarray | None:
        if len(payload) < _LEAST_NPY:
            return None
        header = bytes(payload[: _LEAST_NPY + payload[8] + 256 * payload[9]])
        known = self._known.get(header)
        if known is None:
            return self._parse(header, payload)
        shape, dtype, size = known
        return np.ndarray(shape, dtype, payload, len(header)) if len(payload) == size else None

    def _parse(self, header: bytes, payload: memoryview) -> np.ndarray | None:
        try:
            array = decode_npy(payload)
        except ValueError:
            return None
        if not self._spec.fits(array.dtype, array.shape):
            return None
        if len(self._known) == _KEPT_HEADERS:  # sets of any number of elements have as many headers
            self._known.clear()
        self._known[header] = array.shape, array.dtype, len(payload)
        return array
