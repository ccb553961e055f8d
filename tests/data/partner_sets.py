"""Shard sets of two kinds of entries, in couples of splits, whose values tell entry and class."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from swamp_dist.data.manifest import Manifest
from swamp_dist.data.writer import write_shards
from swamp_dist.records import Sample

DIM = 6


def centre(label: int) -> np.ndarray:
    """(DIM,) the point that a class lies around."""
    rows: np.ndarray = np.random.default_rng(label + 1).standard_normal(DIM)
    return rows


def vector(split: str, number: int, label: int) -> Sample:
    """Field x: (DIM,) near the centre of its class, reversed in photos; field id: number and class."""
    seed = [len(split), sum(split.encode()), number]
    x = centre(label) + 0.9 * np.random.default_rng(seed).standard_normal(DIM)
    x = x[::-1] if split.endswith("photos") else x
    fields = {"x": x.astype(np.float32), "id": np.array([number, label], dtype=np.float32)}
    return Sample(f"{split}-{number:04d}", fields, label)


def picture(split: str, number: int, label: int) -> Sample:
    """Field image: a PNG of 16 x 16 pixels in the colour of its class; sketches are striped."""
    colour = (127 + 60 * centre(label)[:3]).clip(0, 255)
    noise = np.random.default_rng([len(split), number]).integers(-20, 20, (16, 16, 3))
    pixels = (colour + noise).clip(0, 255).astype(np.uint8)
    if not split.endswith("photos"):
        pixels[::2] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return Sample(f"{split}-{number:04d}", {"image": file.getvalue()}, label)


def write_couples(
    folder: Path,
    train: Sequence[int] = (0, 1, 2, 3),
    tests: Sequence[int] = (4, 5, 6),
    each: tuple[int, int] = (6, 9),
    make=vector,
) -> Manifest:
    """train, validation, test and their *_photos: `each` entries of every class, sketches and photos."""
    samples = {}
    for name, classes in (("train", train), ("validation", tests[:2]), ("test", tests)):
        for split, count in ((name, each[0]), (f"{name}_photos", each[1])):
            labels = [label for label in classes for _ in range(count)]
            samples[split] = [make(split, i, label) for i, label in enumerate(labels)]
    return write_shards(samples, folder, "couples", {"kind": "test"}, 20, 0, [])
