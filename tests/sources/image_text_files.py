"""Small raw files in the layouts of SCAN and of Karpathy's splits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.data.image_sets import FORMATS, encode, smooth

WORDS = ("a", "man", "dog", "hat", "red", "ball")


def caption(image: int, number: int) -> str:
    """Caption `number` of an image, in the spacing of the public files."""
    word = WORDS[image % len(WORDS)]
    return f"A {word} number {number} , with a dog's hat {image} ."


def write_scan(
    folder: Path,
    split: str,
    images: int,
    repeat: bool = False,
    width: int = 8,
    regions: int = 3,
    per: int = 5,
) -> np.ndarray:
    """The three files of a split; (images, regions, width) as they are stored once. No final line end."""
    folder.mkdir(parents=True, exist_ok=True)
    features = np.random.default_rng(images).standard_normal((images, regions, width)).astype(np.float32)
    np.save(folder / f"{split}_ims.npy", np.repeat(features, 5, axis=0) if repeat else features)
    lines = [caption(i, n) for i in range(images) for n in range(5)]
    (folder / f"{split}_caps.txt").write_text("\n".join(lines), "utf-8")
    (folder / f"{split}_ids.txt").write_text("".join(f"{1000 + i}\n" for i in range(images)))
    return features


def write_karpathy(folder: Path, splits: dict[str, int], filepath: str | None = None, per: int = 5) -> Path:
    """A dataset_NAME.json and its photos; the number of images of each split by its name."""
    images = []
    for split, count in splits.items():
        for _ in range(count):
            number = len(images)
            below = folder / "images" / (filepath or "")
            below.mkdir(parents=True, exist_ok=True)
            (below / f"{number}.jpg").write_bytes(encode(smooth(number), FORMATS[0]))
            sentences = [{"raw": caption(number, n), "tokens": [], "sentid": n} for n in range(per)]
            image = {"filename": f"{number}.jpg", "split": split, "sentences": sentences, "imgid": number}
            images.append(image if filepath is None else {**image, "filepath": filepath, "cocoid": number})
    file = folder / "dataset_toy.json"
    file.write_text(json.dumps({"images": images, "dataset": "toy"}))
    return file
