"""Checksums of entries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from swamp_dist.data.entry import Payload, ShardError, decode_entry, encode_entry
from swamp_dist.data.manifest import FieldSpec
from swamp_dist.records import Sample

SPECS = {"a": FieldSpec(dtype="float16", shape=(3,))}


def _members() -> dict[str, Payload]:
    return dict(encode_entry(Sample("k", {"a": np.arange(3, dtype=np.float16)})))


def _array(members: dict[str, Payload]) -> np.ndarray:
    return decode_entry(members, 0, "k", -1, SPECS, ("a",), Path("x.tar")).arrays["a"]


def test_every_flipped_bit_of_a_field_is_found() -> None:
    members = _members()
    assert _array(members).tolist() == [0, 1, 2]
    sound = bytes(members["a.npy"])
    for bit in range(8 * len(sound)):
        changed = bytearray(sound)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ShardError, match="field 'a' does not belong to this entry or is damaged"):
            _array(members | {"a.npy": bytes(changed)})


@pytest.mark.parametrize("checksums", [None, [], {"b": "0"}, {"a": 3}])
def test_an_entry_without_a_checksum_is_refused(checksums: object) -> None:
    members = _members()
    header = json.loads(bytes(members["entry.json"])) | {"xxh3": checksums}
    with pytest.raises(ShardError, match="field 'a' does not belong"):
        _array(members | {"entry.json": json.dumps(header).encode()})
    del header["xxh3"]
    with pytest.raises(ShardError, match="field 'a' does not belong"):
        _array(members | {"entry.json": json.dumps(header).encode()})


def test_views_of_a_larger_buffer_are_not_copied() -> None:
    members = _members()
    whole = b"".join(bytes(payload) for payload in members.values())
    view = memoryview(whole)[-len(members["a.npy"]) :]
    array = _array(members | {"a.npy": view})
    assert np.shares_memory(array, np.frombuffer(whole, np.uint8))
    assert not array.flags.writeable
