"""Encoded images and small sets of images and texts for tests, made on the spot."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from swamp_dist.data.manifest import Manifest
from swamp_dist.data.writer import write_shards
from swamp_dist.records import Sample

FORMATS = ("JPEG", "PNG", "WEBP")


def smooth(number: int, width: int = 40, height: int = 30) -> np.ndarray:
    """(height, width, 3) uint8 whose colours change slowly: what photographs are to an encoder of JPEG."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(image: np.ndarray | Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    """The file of an image."""
    file = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(file, form, **options)
    return file.getvalue()


def raw_sample(number: int, captions: int = 0) -> Sample:
    """An image of one of the three formats and of a size of its own, with one text or several."""
    picture = smooth(number, 36 + number % 7, 30 + number % 5)
    texts = tuple(f"picture {number}, Caption {i}" for i in range(max(1, captions)))
    fields = {"image": encode(picture, FORMATS[number % 3]), "text": texts if captions else texts[0]}
    return Sample(f"key-{number:04d}", fields, number % 4)


def build_raw(
    folder: Path, train: int = 24, test: int = 6, captions: int = 0, per_shard: int = 7
) -> Manifest:
    """A set of `raw_sample`."""
    splits = {"train": train, "test": test}
    samples = {name: [raw_sample(i, captions) for i in range(count)] for name, count in splits.items()}
    several = ["text"] if captions else []
    return write_shards(samples, folder, "raw", {"kind": "test"}, per_shard, 0, several)
