"""Small sketch sets in the published layouts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, form: str = "PNG") -> bytes:
    """An image of 8 x 8 pixels of its own for every seed."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def write_folders(
    root: Path, names: Sequence[str], sketches: str, photos: str, counts: tuple[int, int]
) -> None:
    """ROOT/SKETCHES/NAME/s0.png, ... and ROOT/PHOTOS/NAME/p0.jpg, ... for every name."""
    for number, name in enumerate(names):
        for folder, letter, form, count in (
            (sketches, "s", "PNG", counts[0]),
            (photos, "p", "JPEG", counts[1]),
        ):
            path = root / folder / name
            path.mkdir(parents=True)
            for i in range(count):
                ending = ".png" if form == "PNG" else ".jpg"
                (path / f"{letter}{i}{ending}").write_bytes(picture(1000 * number + i, form))


def write_lists(root: Path, lists: Path, seen: Sequence[str], unseen: Sequence[str]) -> None:
    """The six lists of SAKE, with the images in them: two sketches and three photos of every class."""
    lists.mkdir(parents=True, exist_ok=True)
    names_of: Mapping[str, Sequence[str]] = {"train": seen, "zero": unseen}
    for side, names in names_of.items():
        write_folders(root, [f"{side} {name}" for name in names], "sketch_ready", "photo_ready", (2, 3))
        files = {
            f"sketch_tx_000000000000_ready_filelist_{side}.txt": ("sketch_ready", ("s0.png", "s1.png")),
            f"all_photo_filelist_{side}.txt": ("photo_ready", ("p0.jpg", "p1.jpg", "p2.jpg")),
        }
        for file, (folder, images) in files.items():
            lines = [
                f"{folder}/{side} {name}/{image} {i}" for i, name in enumerate(names) for image in images
            ]
            (lists / file).write_text("\n".join(lines) + "\n")
        numbers = "".join(f"{name} {i}\n" for i, name in enumerate(names))
        (lists / ("cname_cid.txt" if side == "train" else "cname_cid_zero.txt")).write_text(numbers)
