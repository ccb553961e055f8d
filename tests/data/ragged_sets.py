"""Small sets with a ragged field: entry i has 1 + i mod 5 regions, whose values tell entry and place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from swamp_dist.data.manifest import Manifest
from swamp_dist.data.writer import write_shards
from swamp_dist.records import Sample

WIDTH = 6


def regions(number: int, dtype: str = "float32") -> np.ndarray:
    """(1 + number mod 5, WIDTH): value number + place / 100, with a small wave over the width."""
    places = np.arange(1 + number % 5)[:, None]
    return (number + places / 100 + np.sin(np.arange(WIDTH) + number) / 8).astype(dtype)


def ragged_sample(number: int, dtype: str = "float32") -> Sample:
    """Regions, a vector, a text and two captions of entry `number`."""
    vector = np.sin(np.arange(4, dtype=np.float32) + number)
    fields = {
        "regions": regions(number, dtype),
        "vector": vector,
        "text": f"picture number {number}, region {number % 5}",
        "captions": (f"a picture {number}", f"with {number % 5} things and more"),
    }
    return Sample(f"key-{number:04d}", fields, number % 4)


def build_ragged(
    folder: Path, splits: Mapping[str, int] | None = None, per_shard: int = 10, dtype: str = "float32"
) -> Manifest:
    """A set with `splits[name]` entries a split, numbered from 0 in each."""
    wanted = splits or {"train": 37}
    samples = {name: [ragged_sample(i, dtype) for i in range(n)] for name, n in wanted.items()}
    source, several = {"kind": "test", "dtype": dtype}, ["captions"]
    return write_shards(samples, folder, "ragged", source, per_shard, 0, several, ragged_fields=["regions"])
