"""A small set of whole videos: captions with times, features by time, and a word table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from swamp_dist.data.manifest import Manifest, load_manifest
from swamp_dist.data.words import write_word_table
from swamp_dist.data.writer import write_shards
from swamp_dist.records import Sample

W, DIM, WORDS = 6, 5, 40
WIDTHS = {"features_2d": 7, "features_3d": 9}
RATES = {"features_2d": 1.0, "features_3d": 1.5}
FIELDS = ("text", "times", *WIDTHS)


def vectors() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((WORDS, DIM)).astype(np.float32)


def captions(number: int) -> list[list[str]]:
    """Tokens of every caption; `unknown` stands in no table."""
    random = np.random.default_rng(number)
    words = [f"w{i}" for i in range(1, WORDS + 1)] + ["unknown"] * 8
    return [list(random.choice(words, random.integers(1, 10))) for _ in range(int(random.integers(1, 9)))]


def word_ids(tokens: list[str]) -> list[int]:
    """The first W known words as rows of the table, padded."""
    known = [int(token[1:]) for token in tokens if token != "unknown"][:W]
    return known + [0] * (W - len(known))


def video(number: int) -> Sample:
    """The last captions lie past the features, some before them; features have both signs."""
    random = np.random.default_rng(1000 + number)
    said = captions(number)
    starts = np.sort(random.uniform(0, 30, len(said)))
    times = np.stack([starts, starts + random.uniform(0.5, 7, len(said))], axis=1)
    fields = {"text": np.array([word_ids(x) for x in said], np.int32), "times": times.astype(np.float32)}
    for name, width in WIDTHS.items():
        rows = random.standard_normal((int(25 * RATES[name]), width))
        fields[name] = rows.astype(np.float16)
    text = {"captions": "\n".join(" ".join(x) for x in said)}
    return Sample(f"v-{number:03d}", fields, text=text)


def add_words(manifest: Manifest, fields: tuple[str, ...], source: str = "s" * 64) -> Manifest:
    """The set with a word table beside its shards."""
    folder, names = manifest.folder, [f"w{i}" for i in range(1, WORDS + 1)]
    words = write_word_table(folder, names, vectors(), source, W, fields)
    record = manifest.record.model_copy(update={"words": words})
    record = record.model_copy(update={"hash": record.content_hash()})
    (folder / "manifest.json").write_text(record.model_dump_json(indent=1))
    return load_manifest(folder)


def build_videos(folder: Path, count: int = 21, source: Mapping[str, object] | None = None) -> Manifest:
    """`count` videos in shards of 5."""
    samples = {"train": [video(i) for i in range(count)]}
    return add_words(write_shards(samples, folder, "videos", source or {}, 5, 0, FIELDS), ("text",))


def build_pooled(folder: Path, count: int = 13, several: bool = False) -> Manifest:
    """One vector and one caption per entry, or as many captions as the video has; every third text is the
    same."""

    def sample(i: int) -> Sample:
        ids = video(0 if i % 3 == 0 else i).fields["text"]
        pooled = np.concatenate([video(i).fields[name][0] for name in WIDTHS])
        return Sample(f"c-{i:03d}", {"text": ids if several else ids[0], "video": pooled})

    samples = [sample(i) for i in range(count)]
    items = ("text",) if several else ()
    manifest = write_shards({"train": samples, "test": samples}, folder, "pooled", {}, 5, 0, items)
    return add_words(manifest, ("text",))
