"""Pictures and texts as vectors: rasterising, pixels, hashed letters, and a cache for the costly ones."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from swamp_dist.atomic_files import open_atomically
from swamp_dist.errors import UserError

log = logging.getLogger(__name__)

CODE_VERSION = 1
"""Part of every cache key: raise it when a change here or in a network changes the numbers."""

THUMBNAIL = 32
LETTER_BUCKETS = 1024


def draw_png(svg: Path | str, size: int) -> bytes:
    """A PNG file of `size` x `size` pixels of an SVG file, or of the text of one, on white. System fonts are
    ignored, so that every machine draws the same.

    Raises:
        UserError: the package that draws is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise UserError(
            "drawing the pictures needs the package resvg-py, which is not installed.\n"
            "Fix: pip install resvg-py tokenizers"
        ) from error
    drawn = resvg_py.svg_to_bytes(
        svg_path=str(svg) if isinstance(svg, Path) else None,
        svg_string=None if isinstance(svg, Path) else svg,
        width=size,
        height=size,
        background="#ffffff",
        skip_system_fonts=True,
    )
    return bytes(drawn)


def rasterise(svgs: Sequence[Path | str], size: int) -> np.ndarray:
    """Draw SVG files, as `draw_png`: (N, size, size, 3) uint8."""
    from PIL import Image

    pictures = np.empty((len(svgs), size, size, 3), dtype=np.uint8)
    for row, svg in zip(pictures, svgs, strict=True):
        row[:] = np.asarray(Image.open(io.BytesIO(draw_png(svg, size))).convert("RGB"))
    return pictures


def thumbnails(pictures: np.ndarray) -> np.ndarray:
    """Grey pictures averaged down to 32 x 32, flattened, 0 = black, 1 = white: (N, 1024) float32.

    The side of `pictures` (N, S, S, 3) must be a multiple of 32.
    """
    count, size = pictures.shape[:2]
    cell = size // THUMBNAIL
    grey = pictures.astype(np.float32).mean(axis=3) / 255
    blocks = grey.reshape(count, THUMBNAIL, cell, THUMBNAIL, cell)
    return np.ascontiguousarray(blocks.mean(axis=(2, 4)).reshape(count, -1))


def letter_trigrams(texts: Sequence[str]) -> np.ndarray:
    """Counts of letter triples hashed into 1,024 buckets, unit length: (N, 1024) float32."""
    counts = np.zeros((len(texts), LETTER_BUCKETS), dtype=np.float32)
    for row, text in zip(counts, texts, strict=True):
        padded = f" {' '.join(text.lower().split())} "
        for i in range(len(padded) - 2):
            row[zlib.crc32(padded[i : i + 3].encode()) % LETTER_BUCKETS] += 1
    norms = np.linalg.norm(counts, axis=1, keepdims=True)
    return np.asarray(counts / np.maximum(norms, 1e-12), dtype=np.float32)


def centre(rows: np.ndarray, fit_on: np.ndarray) -> np.ndarray:
    """Rows minus the mean of the rows `fit_on` (indices), scaled to length sqrt(D): (N, D) float32.

    Each value then has mean square 1, as an encoder with torch's default weights expects. Scaling every
    dimension to deviation 1 instead would raise the weak, noisy ones, and retrieved worse.
    """
    left = rows - rows[fit_on].mean(axis=0)
    norms = np.linalg.norm(left, axis=1, keepdims=True)
    return np.asarray(left / np.maximum(norms, 1e-12) * np.sqrt(rows.shape[1]), dtype=np.float32)


def load_or_compute(folder: Path, name: str, key: object, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The array of an earlier call with the same name, key (any JSON value) and code version, or a new one.

    Written to a temporary file and renamed: a killed or second process never reads half an array.
    """
    digest = hashlib.sha256(json.dumps([CODE_VERSION, name, key]).encode()).hexdigest()
    path = folder / f"{name}-{digest[:16]}.npy"
    if path.exists():
        loaded: np.ndarray = np.load(path, allow_pickle=False)
        return loaded
    started = time.perf_counter()
    rows = compute()
    folder.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file:
        np.save(file, rows)
    log.info("computed %s for %d items in %.0f s -> %s", name, len(rows), time.perf_counter() - started, path)
    return rows
