"""Small shard sets for the tests of this folder: every value tells which entry and item it belongs to."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swamp_dist.data import reader
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.reader import EntryReader
from swamp_dist.data.tar import walk
from swamp_dist.data.writer import write_shards
from swamp_dist.records import Sample


def sample(number: int, items: tuple[int, int] = (1, 1), dim: int = 3) -> Sample:
    """Field a holds number + item / 100 in every value, b its negative; the label is number mod 4."""
    fields = {}
    for name, sign, count in (("a", 1, items[0]), ("b", -1, items[1])):
        values = sign * (number + np.arange(count, dtype=np.float32) / 100)
        rows = np.repeat(values[:, None], dim, axis=1).astype(np.float32)
        fields[name] = rows if count > 1 else rows[0]
    return Sample(f"key-{number:04d}", fields, number % 4, {"a": f"caption {number}"})


def build(
    folder: Path,
    splits: Mapping[str, int] | None = None,
    per_shard: int = 10,
    items: tuple[int, int] = (1, 1),
    seed: int | None = 0,
) -> Manifest:
    """A set with `splits[name]` entries a split, numbered from 0 in each."""
    several = [name for name, count in zip("ab", items, strict=True) if count > 1]
    samples = {name: [sample(i, items) for i in range(n)] for name, n in (splits or {"train": 37}).items()}
    return write_shards(samples, folder, "tiny", {"kind": "test"}, per_shard, seed, several)


def open_reader(
    manifest: Manifest, split: str, fields: Sequence[str], payloads: bool = True, **how: Any
) -> EntryReader:
    """As the program opens it; `payloads` False: as if an earlier version had built the set."""
    return reader.open_reader(manifest if payloads else without_payloads(manifest), split, fields, **how)


def without_payloads(manifest: Manifest) -> Manifest:
    """The set as the manifest of an earlier version names it."""
    splits = {n: s.model_copy(update={"payloads": None}) for n, s in manifest.record.splits.items()}
    return Manifest(manifest.folder, manifest.record.model_copy(update={"splits": splits}))


def members(path: Path) -> dict[str, tuple[int, int]]:
    """Byte range of the payload of every member of a tar, by name."""
    with path.open("rb") as file:
        found = list(walk(file, whole=True))
    return {f"{m.key}.{m.suffix}": (m.offset + 512, m.offset + 512 + len(m.payload)) for m in found}


def flip(path: Path, byte: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def swap(path: Path, one: str, other: str) -> None:
    """Exchange the payloads, of equal size, of two members of a tar."""
    data, where = bytearray(path.read_bytes()), members(path)
    (i, j), (k, m) = where[one], where[other]
    data[i:j], data[k:m] = data[k:m], data[i:j]
    path.write_bytes(data)


def rewrite(shard: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> None:
    """Write a tar anew with `change(name, payload) -> (name, payload)` applied to every member."""
    new = io.BytesIO()
    with tarfile.open(shard) as old, tarfile.open(fileobj=new, mode="w", format=tarfile.USTAR_FORMAT) as out:
        for info in old:
            content = old.extractfile(info)
            assert content is not None
            info.name, payload = change(info.name, content.read())
            info.size = len(payload)
            out.addfile(info, io.BytesIO(payload))
    shard.write_bytes(new.getvalue())


def rename(shard: Path, one: str, other: str) -> None:
    """Exchange the names of two members of a tar."""
    names = {one: other, other: one}
    rewrite(shard, lambda name, payload: (names.get(name, name), payload))
