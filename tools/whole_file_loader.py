"""The baseline of `bench_clips.py`: a loader that reads both feature files of a video whole.

Written after the published HowTo100M loader's described behaviour: every array is cast to float32 at once,
every clip is a torch.max and a normalisation, captions and word vectors are Python objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SECONDS, RATES, CHANNELS, CAPTIONS, W, DIM = 390, (1.0, 1.5), 2048, 110, 20, 300
TOKEN = re.compile(r"[\w']+")
_VECTORS, _CAPTIONS = "vectors.npy", "captions.json"


@dataclass(frozen=True)
class Raw:
    """What the baseline reads: folders of .npy files, captions and vectors as Python objects."""

    folder: Path
    captions: dict[str, dict[str, list]]
    vectors: dict[str, np.ndarray]


def make_raw(folder: Path, videos: int, vocabulary: int) -> Raw:
    """Non-negative unit rows in float16, captions of 1 to 12 words by Zipf's law, one in ten unknown."""
    random = np.random.default_rng(0)
    np.save(folder / _VECTORS, random.standard_normal((vocabulary, DIM)).astype(np.float32))
    captions = {}
    for number in range(videos):
        key = f"v{number:05d}"
        for part, rate in zip(("2d", "3d"), RATES, strict=True):
            rows = np.abs(random.standard_normal((int(SECONDS * rate), CHANNELS), dtype=np.float32))
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            np.save(folder / f"{key}.{part}.npy", rows.astype(np.float16))
        starts = np.round(np.sort(random.uniform(0, SECONDS - 6, CAPTIONS)), 2).astype(np.float32)
        ends = starts + np.float32(3.5)
        said = [_caption(random, vocabulary) for _ in starts]
        captions[key] = {
            "start": starts.astype(float).tolist(),
            "end": ends.astype(float).tolist(),
            "text": said,
        }
    (folder / _CAPTIONS).write_text(json.dumps(captions))
    return open_raw(folder)


def open_raw(folder: Path) -> Raw:
    """What `make_raw` made, in any process."""
    vectors = {f"word{i}": row for i, row in enumerate(np.load(folder / _VECTORS))}
    return Raw(folder, json.loads((folder / _CAPTIONS).read_text()), vectors)


def _caption(random: np.random.Generator, vocabulary: int) -> str:
    words = (vocabulary ** random.random(int(random.integers(1, 13)))).astype(int) - 1  # Zipf's law
    return " ".join(f"word{i}" if random.random() > 0.1 else "unknown" for i in words)


def baseline_video(raw: Raw, key: str, chosen: Iterable[int], normalize: bool) -> tuple[Tensor, Tensor]:
    """(64, 4096) pooled features and (64, 20, 300) word vectors of one video."""
    said = raw.captions[key]
    two = torch.from_numpy(np.load(raw.folder / f"{key}.2d.npy")).float()
    three = torch.from_numpy(np.load(raw.folder / f"{key}.3d.npy")).float()
    clips, texts = [], []
    for caption in chosen:
        words, start, end = _baseline_growth(said, caption)
        texts.append(_baseline_words(raw, words))
        halves = []
        for rows, rate in ((two, RATES[0]), (three, RATES[1])):
            part = rows[int(start * rate) : int(end * rate) + 1]
            pooled = torch.max(part, dim=0)[0] if len(part) else torch.zeros(CHANNELS)
            halves.append(functional.normalize(pooled, dim=0) if normalize else pooled)
        clips.append(torch.cat(halves))
    return torch.stack(clips), torch.stack(texts)


def _baseline_growth(said: dict[str, list], caption: int) -> tuple[list[str], float, float]:
    starts, ends = said["start"], said["end"]
    first = last = caption
    words = TOKEN.findall(said["text"][caption])
    while ends[last] - starts[first] < 5.0 and (first > 0 or last < len(ends) - 1):
        if last == len(ends) - 1:
            back = True
        elif first == 0:
            back = False
        else:
            back = ends[last] - starts[first - 1] <= ends[last + 1] - starts[first]
        first, last = (first - 1, last) if back else (first, last + 1)
        words = words + TOKEN.findall(said["text"][first if back else last])
    return words, starts[first], ends[last]


def _baseline_words(raw: Raw, words: list[str]) -> Tensor:
    known = [raw.vectors[word] for word in words if word in raw.vectors][:W]
    text = torch.zeros(W, DIM)
    if known:
        text[: len(known)] = torch.from_numpy(np.stack(known))
    return text
