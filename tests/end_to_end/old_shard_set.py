"""Writes a shard set as version 0.1 wrote it, spelled out here byte by byte.

Nothing of the package writes here, so the format cannot drift along with it. Version 0.1 (commit 92e4961)
built a set from the same raw data; every file is equal to that one, as `test_old_formats.SET_SHA256` says.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

WORDS = ("a", "man", "cuts", "an", "onion", "woman", "plays", "the", "piano", "dog", "runs")
KNOWN = WORDS[:-1]
"""Words with a vector."""
MAX_WORDS = 5
ENTRIES_PER_SHARD = 16
ORDER = {
    "train": (3, 14, 16, 27, 31, 17, 24, 30, 20, 28, 11, 18, 8, 23, 39, 34,
              38, 10, 7, 25, 35, 21, 19, 12, 29, 0, 15, 26, 1, 2, 32, 5),
    "validation": (37, 22, 9, 33, 13, 4, 36, 6),
    "test": (102, 103, 101, 104, 106, 109, 108, 107, 105, 100),
}  # fmt: skip
"""Numbers of the videos of each split in the order in which shuffle_seed 0 puts them."""
TOKENS = {"train": (67, 304, 29), "validation": (12, 52, 3), "test": (10, 43, 5)}
"""Captions, words in them, and words without a vector, by split."""
VECTORS_SHA256 = "9692abb73b18f829a8497d82491f6aa3e7788c6df3fbfe114f6eb03ad1f9f1eb"
"""Of the text file that the word vectors came from."""


def word_vectors() -> np.ndarray:
    """(10, 6) float32."""
    rows = [[((13 * i + 7 * j) % 17 - 8) / 8 for j in range(6)] for i in range(len(KNOWN))]
    return np.array(rows, dtype="<f4")


def captions(split: str, video: int) -> list[str]:
    """One caption of a test video, one to three of another."""
    count = 1 if split == "test" else 1 + video % 3
    return [
        " ".join(WORDS[(video * 5 + c * 3 + k * (video % 4 + 1)) % 11] for k in range(3 + (video + c) % 4))
        for c in range(count)
    ]


def word_ids(sentences: Sequence[str]) -> np.ndarray:
    """(n, MAX_WORDS) int32: rows of the word table, where row 0 stands for no word."""
    ids = np.zeros((len(sentences), MAX_WORDS), dtype="<i4")
    for row, sentence in zip(ids, sentences, strict=True):
        known = [KNOWN.index(word) + 1 for word in sentence.split() if word in KNOWN][:MAX_WORDS]
        row[: len(known)] = known
    return ids


def video_vector(video: int) -> np.ndarray:
    """(8,) float16: 2D features followed by 3D features."""
    return np.array([((29 * video + 11 * j + video * j) % 31 - 15) / 16 for j in range(8)], dtype="<f2")


def write_set(folder: Path) -> None:
    """The shard set of version 0.1 in a new folder."""
    folder.mkdir(parents=True)
    splits = {split: _write_split(folder, split) for split in ORDER}
    words = _write_words(folder)
    record = {
        "schema_version": 1,
        "name": "old",
        "source": {
            "width_2d": 4, "width_3d": 4, "validation_share": 0.2, "kind": "msrvtt", "training": "other",
            "train_lists": ["train.csv"], "captions": "data.json", "train_features": "train.pth",
            "test_list": "test.csv", "test_features": "test.pth",
        },
        "entries_per_shard": ENTRIES_PER_SHARD,
        "shuffle_seed": 0,
        "fields": {
            "text": {"dtype": "int32", "shape": [MAX_WORDS], "items": True},
            "video": {"dtype": "float16", "shape": [8], "items": False},
        },
        "classes": 0,
        "splits": splits,
        "words": words,
    }  # fmt: skip
    _write_coverage(folder)
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"))
    record["hash"] = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(record, indent=1))


def _write_split(folder: Path, split: str) -> dict[str, Any]:
    """Tars of up to 16 entries and the index of the split; its record in the manifest."""
    rows, shards, order = [], [], ORDER[split]
    for number, start in enumerate(range(0, len(order), ENTRIES_PER_SHARD)):
        path = folder / f"{split}-{number:06d}.tar"
        videos = order[start : start + ENTRIES_PER_SHARD]
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for video in videos:
                begin = tar.offset
                for name, payload in entry_members(split, video):
                    tar.addfile(_member(name, len(payload)), io.BytesIO(payload))
                rows.append((f"v_video{video}".encode(), number, begin, tar.offset - begin, -1))
        size, digest = path.stat().st_size, _sha256(path)
        shards.append({"file": path.name, "bytes": size, "sha256": digest, "entries": len(videos)})
    key = f"S{max(len(row[0]) for row in rows)}"
    dtype = [("key", key), ("shard", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("label", "<i4")]
    index = folder / f"{split}.index.npy"
    index.write_bytes(_npy(np.array(rows, dtype=dtype)))
    return {
        "entries": len(rows),
        "bytes": sum(shard["bytes"] for shard in shards),
        "shards": shards,
        "index": {"file": index.name, "sha256": _sha256(index)},
    }


def entry_members(split: str, video: int) -> list[tuple[str, bytes]]:
    """Names and bytes of an entry's three files."""
    key, sentences = f"v_video{video}", captions(split, video)
    fields = {"text": _npy(word_ids(sentences)), "video": _npy(video_vector(video))}
    header = {
        "key": key,
        "label": -1,
        "xxh3": {name: xxhash.xxh3_64_hexdigest(payload) for name, payload in fields.items()},
        "text": {"captions": "\n".join(sentences)},
    }
    members = [(f"{key}.entry.json", json.dumps(header).encode())]
    return members + [(f"{key}.{name}.npy", payload) for name, payload in fields.items()]


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o444, 0
    return member


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _write_words(folder: Path) -> dict[str, Any]:
    """The table, a row of zeros first, and its words, an empty line first; their record in the manifest."""
    vectors = word_vectors()
    table, listed = folder / "words.npy", folder / "words.txt"
    table.write_bytes(_npy(np.concatenate([np.zeros((1, 6), "<f4"), vectors])))
    listed.write_text("\n".join(("", *KNOWN, "")))
    return {
        "file": table.name, "words_file": listed.name,
        "sha256": _sha256(table), "words_sha256": _sha256(listed),
        "rows": len(vectors) + 1, "dim": 6, "source_sha256": VECTORS_SHA256, "fields": ["text"],
        "max_words": MAX_WORDS,
    }  # fmt: skip


def _write_coverage(folder: Path) -> None:
    """The report of the build, for programs and for people."""
    splits, lines = {}, ["coverage of old"]
    for split, (count, tokens, unknown) in TOKENS.items():
        entries, published = len(ORDER[split]), 1000 if split == "test" else None
        tally = {
            "captions": count, "captions_without_words": 0, "tokens": tokens, "unknown_tokens": unknown,
        }  # fmt: skip
        splits[split] = {
            "listed": entries, "written": entries, "skipped": {}, "tally": tally, "published": published,
        }  # fmt: skip
        beside = "" if published is None else f"; 1,000 published: {entries - published:+,} here"
        lines += [
            f"  {split}",
            f"    entries: {entries} of {entries} listed{beside}",
            f"    captions: {count}",
            "    captions without a word of the vocabulary: 0",
            f"    tokens outside the vocabulary: {unknown} of {tokens} ({unknown / tokens:.2%})",
        ]
    lines.append(f"  vocabulary: {len(KNOWN)} words")
    report = {"name": "old", "splits": splits, "vocabulary": len(KNOWN)}
    (folder / "coverage.json").write_text(json.dumps(report, indent=1))
    (folder / "coverage.txt").write_text("\n".join(lines) + "\n")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
