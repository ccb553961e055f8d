"""The raw files of a simulated corpus, in the layouts that HowTo100M, YouCook2, MSR-VTT and LSMDC come in."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from swamp_dist.config import SimulatedVideoTextSource
from swamp_dist.sources.simulated_captions import Clip, Corpus, all_captions
from swamp_dist.sources.simulated_draws import draws, pick
from swamp_dist.sources.simulated_features import (
    Scenes,
    feature_map,
    pooled_features,
    video_features,
    word_vector,
)

PICKLE_PROTOCOL = 4
CATEGORIES = (("Food and Entertaining", "Recipes"), ("Food and Entertaining", "Drinks"))
FIRST_TEST_FILM = 5000
REPEATED_CLIPS = 0.03
"""Share of LSMDC training rows that repeat the clip of the row before with another sentence."""


def write_words(corpus: Corpus, settings: SimulatedVideoTextSource, out: Path) -> None:
    """`vectors.bin` (word2vec binary) or `vectors.txt` (GloVe text): the words of the corpus, less a share
    out of vocabulary, filled up to `vocabulary` with words that no caption has.
    """
    words = sorted({word.strip(".,\"'") for text in all_captions(corpus) for word in text.split()} - {""})
    random = draws(settings.seed, "out of vocabulary")
    known = [word for word in words if random.random() >= settings.out_of_vocabulary]
    known += [f"word{i:05d}" for i in range(settings.vocabulary - len(known))]
    known = pick(random, known, len(known))
    vectors = np.stack([word_vector(word, settings) for word in known])
    if settings.vectors_format == "word2vec":
        _word2vec(out / "vectors.bin", known, vectors)
    else:
        lines = (f"{w} {' '.join(f'{x:.5f}' for x in v)}\n" for w, v in zip(known, vectors, strict=True))
        _write(out / "vectors.txt", "".join(lines))


def write_howto100m(corpus: Corpus, settings: SimulatedVideoTextSource, out: Path) -> None:
    """`HowTo100M_v1.csv` (released columns plus `path`, whose values begin with a blank), `caption.json`
    and the trees `features_2d/` and `features_3d/` of float16 `.npy` files.
    """
    seed = settings.map_seed if settings.howto100m_map_seed is None else settings.howto100m_map_seed
    rows, captions, scenes, into = [], {}, Scenes(settings, seed), feature_map(seed, settings)
    for video in corpus.videos:
        name = f"sim{video.number:08d}"
        path = f"Food/{name}.npy"
        rows.append([name, *CATEGORIES[video.number % 2], 1 + video.number % 200, video.topic, f" {path}"])
        start, end, text = zip(*video.narration, strict=True)
        captions[name] = {"start": start, "end": end, "text": text}
        for kind, features in video_features(video, scenes, into, settings).items():
            file = out / f"features_{kind}" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, features)
    columns = ["video_id", "category_1", "category_2", "rank", "task_id", "path"]
    _csv(out / "HowTo100M_v1.csv", [columns, *rows])
    _write(out / "caption.json", json.dumps(captions))


def write_youcook2(corpus: Corpus, settings: SimulatedVideoTextSource, out: Path) -> None:
    """`youcook_train.pkl` and `youcook_val.pkl`: pickled lists of {2d, 3d, caption, id}; the second is the
    test set, as in the published loader.
    """
    into = feature_map(settings.map_seed, settings)
    for part, file in (("youcook2_train", "youcook_train.pkl"), ("youcook2_test", "youcook_val.pkl")):
        clips = corpus.pooled[part]
        rows = [
            {**features, "caption": clip.captions[0], "id": f"{part}{clip.video:05d}_{clip.number:05d}"}
            for clip, features in zip(clips, pooled_features(part, clips, into, settings), strict=True)
        ]
        with (out / file).open("wb") as stream:
            pickle.dump(rows, stream, protocol=PICKLE_PROTOCOL)


def write_msrvtt(corpus: Corpus, settings: SimulatedVideoTextSource, out: Path) -> None:
    """`MSRVTT_train.csv`, `MSRVTT_data.json` (several captions per video), `MSRVTT_train.pth`,
    `MSRVTT_JSFUSION_test.csv` (one caption a video) and `MSRVTT_JSFUSION_test.pth`.
    """
    train, test = corpus.pooled["msrvtt_train"], corpus.pooled["msrvtt_test"]
    names = [f"video{clip.number}" for clip in train]
    tested = [f"video{len(train) + clip.number}" for clip in test]
    _csv(out / "MSRVTT_train.csv", [["video_id"], *([name] for name in names)])
    pairs = [(n, c) for n, clip in zip(names, train, strict=True) for c in clip.captions]
    sentences = [{"caption": c, "video_id": n, "sen_id": i} for i, (n, c) in enumerate(pairs)]
    _write(out / "MSRVTT_data.json", json.dumps({"sentences": sentences}))
    rows = [
        [f"ret{i}", f"msr{i}", name, clip.captions[0]]
        for i, (name, clip) in enumerate(zip(tested, test, strict=True))
    ]
    _csv(out / "MSRVTT_JSFUSION_test.csv", [["key", "vid_key", "video_id", "sentence"], *rows])
    _pth("msrvtt_train", train, names, settings, out / "MSRVTT_train.pth")
    _pth("msrvtt_test", test, tested, settings, out / "MSRVTT_JSFUSION_test.pth")


def write_lsmdc(corpus: Corpus, settings: SimulatedVideoTextSource, out: Path) -> None:
    """`LSMDC16_annos_training.csv` and `LSMDC16_challenge_1000_publictect.csv` (tabs, no header, no quoting,
    here and there a single `"`), `LSMDC_train.pth` and `LSMDC_test.pth`.
    """
    files = {
        "lsmdc_train": ("LSMDC16_annos_training.csv", "LSMDC_train.pth"),
        "lsmdc_test": ("LSMDC16_challenge_1000_publictect.csv", "LSMDC_test.pth"),
    }
    for part, (table, features) in files.items():
        clips = corpus.pooled[part]
        random = draws(settings.seed, f"rows {part}")
        names = [_film_clip(clip, part) for clip in clips]
        lines: list[str] = []
        for name, clip in zip(names, clips, strict=True):
            sentences = list(clip.captions)
            if part == "lsmdc_train" and random.random() < REPEATED_CLIPS:
                sentences.append(f"SOMEONE is there: {clip.shown}.")
            for sentence in sentences:
                stray = '"' if random.random() < settings.stray_quotes else ""
                start, end = _film_times(clip)
                lines.append("\t".join([name, start, end, start, end, stray + sentence]) + "\n")
        _write(out / table, "".join(lines))
        _pth(part, clips, names, settings, out / features)


def _film_times(clip: Clip) -> tuple[str, str]:
    seconds = 10 * clip.number % 3600
    return tuple(f"00.{s // 60:02d}.{s % 60:02d}.000" for s in (seconds, seconds + 5))  # type: ignore[return-value]


def _film_clip(clip: Clip, part: str) -> str:
    """NUMBER_NAME_START-END, as real ids are; films of test have numbers of their own."""
    film = clip.video + (0 if part.endswith("train") else FIRST_TEST_FILM)
    return f"{film:04d}_SIMULATED_{'-'.join(_film_times(clip))}"


def _pth(
    part: str, clips: Sequence[Clip], names: Sequence[str], settings: SimulatedVideoTextSource, file: Path
) -> None:
    """{"2d": {id: (width,) float16 tensor}, "3d": {...}}, saved by torch."""
    into = feature_map(settings.map_seed, settings)
    tables: Mapping[str, dict[str, torch.Tensor]] = {"2d": {}, "3d": {}}
    for name, features in zip(names, pooled_features(part, clips, into, settings), strict=True):
        for kind, vector in features.items():
            tables[kind][name] = torch.from_numpy(vector)
    torch.save(dict(tables), file)


def _word2vec(file: Path, words: Sequence[str], vectors: np.ndarray) -> None:
    with file.open("wb") as stream:
        stream.write(f"{len(words)} {vectors.shape[1]}\n".encode())
        for word, vector in zip(words, vectors.astype("<f4"), strict=True):
            stream.write(word.encode() + b" " + vector.tobytes() + b"\n")


def _csv(file: Path, rows: Sequence[Sequence[object]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
