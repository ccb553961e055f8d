"""Tiny raw data in every layout of the video sets, with true sizes and rates; nothing in them is real."""

from __future__ import annotations

import csv
import json
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swamp_dist.config import HowTo100MSource, LsmdcSource, MsrVttSource, YouCook2Source

WIDTH = 6
SECONDS = 40.0
VIDEOS = ("-dash_first00", "_under_first", "plainVideo1", "aB3")
NARRATION: Mapping[str, list[Any]] = {
    "start": [0.0, 4.5, 9.0],
    "end": [5.0, 9.5, 12.25],
    "text": ["chop the onions", "fry them", ""],
}


def unit_rows(seed: int, seconds: float, rate: float, dtype: str = "float16") -> np.ndarray:
    """Rows as the public extractor writes them: (ceil(rate * seconds), WIDTH), of length 1."""
    rows = np.random.default_rng(seed).standard_normal((math.ceil(rate * seconds), WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


def write_features(root: Path, names: Sequence[str], seconds: float = SECONDS) -> tuple[Path, Path]:
    """One file a name under 2d/ and 3d/."""
    folders = (root / "2d", root / "3d")
    for folder, rate in zip(folders, (1.0, 1.5), strict=True):
        folder.mkdir(parents=True)
        for number, name in enumerate(names):
            np.save(folder / f"{name}.npy", unit_rows(number + round(10 * rate), seconds, rate))
    return folders


def write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def howto100m(root: Path, captions: str = "json", **more: Any) -> HowTo100MSource:
    """Four videos, two of them with ids that are no safe names."""
    two, three = write_features(root, VIDEOS)
    rows = [(v, "Food", "x", i, 7, f" {v}.npy") for i, v in enumerate(VIDEOS)]
    header = ("video_id", "category_1", "category_2", "rank", "task_id", "path")
    write_rows(root / "videos.csv", header, rows)
    place = write_captions(root, captions, dict.fromkeys(VIDEOS, NARRATION))
    return HowTo100MSource(
        videos=root / "videos.csv", captions=place, features_2d=two, features_3d=three,
        width_2d=WIDTH, width_3d=WIDTH, **more,
    )  # fmt: skip


def write_captions(root: Path, form: str, said: Mapping[str, Mapping[str, Any]]) -> Path:
    """Captions as `pickle`, `json` or `folder`."""
    if form == "folder":
        (root / "captions").mkdir(exist_ok=True)
        for video, columns in said.items():
            rows = list(zip(columns["start"], columns["end"], columns["text"], strict=True))
            write_rows(root / "captions" / f"{video}.csv", ("start", "end", "text"), rows)
        return root / "captions"
    path = root / f"caption.{form}"
    path.write_bytes(pickle.dumps(said) if form == "pickle" else json.dumps(said).encode())
    return path


def segment(number: int, start: float, end: float, sentence: object) -> dict[str, Any]:
    return {"segment": [start, end], "id": number, "sentence": sentence}


def youcook2(root: Path, **more: Any) -> YouCook2Source:
    """Two training videos and one for test, 40 s long, two segments each."""
    videos = {"-train0": "training", "train1": "training", "_test0": "validation"}
    two, three = write_features(root, tuple(videos))
    said = [segment(0, 2, 7, "peel it"), segment(1, 30, 36, "serve it")]
    database = {
        name: {"duration": SECONDS, "subset": subset, "recipe_type": "113", "annotations": said}
        for name, subset in videos.items()
    }
    (root / "annotations.json").write_text(json.dumps({"database": database}))
    files = {"annotations": root / "annotations.json", "features_2d": two, "features_3d": three}
    return YouCook2Source(**{**files, "width_2d": WIDTH, "width_3d": WIDTH, **more})


def youcook2_lists(root: Path, protocol: int = 2, **more: Any) -> YouCook2Source:
    """Pickled lists; two clips of each share an id."""
    for name in ("train", "val"):
        clips = [
            {
                "2d": np.full(WIDTH, i, "f4"),
                "3d": np.full(WIDTH, -i, "f4"),
                "caption": f"stir {i}",
                "id": i // 2,
            }
            for i in range(4)
        ]
        (root / f"{name}.pkl").write_bytes(pickle.dumps(clips, protocol))
    return YouCook2Source(
        layout="lists", train_pickle=root / "train.pkl", test_pickle=root / "val.pkl",
        width_2d=WIDTH, width_3d=WIDTH, **more,
    )  # fmt: skip


def write_tables(path: Path, ids: Sequence[str], dtype: torch.dtype = torch.float32, **more: Any) -> Path:
    """Pooled features saved by torch; row i of 2d is all i, of 3d all -i."""
    two = {name: torch.full((WIDTH,), float(i), dtype=dtype) for i, name in enumerate(ids)}
    torch.save({"2d": two, "3d": {name: -row for name, row in two.items()}}, path, **more)
    return path


def msrvtt(root: Path, **more: Any) -> MsrVttSource:
    """Three training videos with 3, 1 and 2 captions, two test pairs."""
    train, test = ["video0", "video1", "video2"], ["video9770", "video9771"]
    write_rows(root / "train.csv", ("video_id",), [(v,) for v in train])
    said = [(v, f"{v} caption {i}") for v, n in zip(train, (3, 1, 2), strict=True) for i in range(n)]
    sentences = [{"video_id": v, "caption": c, "sen_id": i} for i, (v, c) in enumerate(said)]
    (root / "data.json").write_text(json.dumps({"sentences": sentences, "videos": []}))
    rows = [(f"ret{i}", f"msr{i}", v, f"a test, of {v}") for i, v in enumerate(test)]
    write_rows(root / "test.csv", ("key", "vid_key", "video_id", "sentence"), rows)
    files = {
        "train_lists": (root / "train.csv",), "captions": root / "data.json", "test_list": root / "test.csv",
        "train_features": write_tables(root / "train.pth", train),
        "test_features": write_tables(root / "test.pth", test),
    }  # fmt: skip
    return MsrVttSource(**{**files, "width_2d": WIDTH, "width_3d": WIDTH, **more})


CLIPS = (
    ("0001_A_Movie_00.00.51.926-00.00.54.129", '"Wait, SOMEONE says.'),
    ("0001_A_Movie_00.00.51.926-00.00.54.129", "SOMEONE's hat falls."),
    ("0002_It's_00.01.00.000-00.01.02.500", '"A second" stray quote.'),
    ("0003_Third_00.02.00.000-00.02.03.000", "She runs."),
)


def lsmdc(root: Path, **more: Any) -> LsmdcSource:
    """Four training rows, of which two share a clip and two hold stray quotes, and one test row."""
    test = (("9001_Test_00.00.01.000-00.00.02.000", "He waits."),)
    for name, rows in (("train", CLIPS), ("test", test)):
        lines = ["\t".join([clip, "0", "1", "0", "1", sentence]) for clip, sentence in rows]
        (root / f"{name}.tsv").write_text("\n".join(lines) + "\n")
        write_tables(root / f"{name}.pth", list(dict.fromkeys(clip for clip, _ in rows)))
    files = {
        f"{n}_{k}": root / f"{n}.{s}"
        for n in ("train", "test")
        for k, s in (("list", "tsv"), ("features", "pth"))
    }
    return LsmdcSource(**{**files, "width_2d": WIDTH, "width_3d": WIDTH, **more})
