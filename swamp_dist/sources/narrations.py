"""Narrations of HowTo100M: timed captions per video, in the four forms in which they are published.

caption.pickle, caption.json and raw_caption.json hold {video_id: {start: [...], end: [...], text: [...]}} and
are read whole, which their layout forces (the pickle: about 7 GB on disk, 21 GB in memory). A folder of
VIDEO_ID.csv files with the columns start, end, text is read video by video.

What may be wrong with captions, and what becomes of it:

* times that are not finite, negative or reversed have no clip: the video is a BadEntry "caption times",
  or with bad_times = drop the caption is left out;
* a caption without words is usual, because stop words are removed in the published captions, and growing a
  clip may give it its neighbours' words: it is kept as published, or left out with wordless = drop. A video
  without a word in any is a BadEntry "caption without words" unless wordless is keep;
* overlaps are usual in recognised speech: they are kept;
* a caption that starts behind the last feature row gets a zero clip vector, as in Miech et al. 2019: it is
  kept. Where more than MOST_BEHIND of a video's captions do, the features are cut off or of another video:
  BadEntry "captions beyond the features".
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swamp_dist.config import HowTo100MSource
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.pickles.safe_pickle import read_pickle
from swamp_dist.sources.captions import (
    MALFORMED,
    NO_CAPTIONS,
    Caption,
    caption_texts,
    check_words,
    has_words,
)
from swamp_dist.sources.entry_keys import entry_key
from swamp_dist.sources.id_lists import read_json, read_text

BAD_TIMES, BEHIND = "caption times", "captions beyond the features"
MOST_BEHIND = 0.5
COLUMNS = ("start", "end", "text")


@dataclass(frozen=True)
class Narration:
    """Captions of one video in the order of their file."""

    times: np.ndarray
    """(n, 2) float64: start and end in seconds. The published rules compare them in this precision."""
    texts: tuple[str, ...]
    """n captions."""


def open_captions(path: Path, encoding: str) -> Callable[[str], Mapping[str, Any] | None]:
    """A look-up of a video's raw columns {start, end, text} by id; None where it has none.

    Raises:
        UserError: nothing is at `path`, or it is none of the four forms.
    """
    if path.is_dir():
        return CsvFolder(path)
    if path.suffix in (".pickle", ".pkl"):
        found = read_pickle(path, encoding)
        if not isinstance(found, dict):
            raise UserError(f"{path}: expected a dictionary of videos, found {type(found).__name__}")
        return found.get
    if path.suffix == ".json":
        return read_json(path).get
    raise UserError(
        f"{path}: expected captions as a .pickle or .json file, or a folder with one VIDEO_ID.csv a video"
        f"{'' if path.exists() else '; nothing is there'}.\nFix: set source.captions in the shard recipe."
    )


@dataclass(frozen=True)
class CsvFolder:
    """Captions as one csv a video, opened when they are asked for."""

    folder: Path

    def __call__(self, video: str) -> Mapping[str, Any] | None:
        """Those of the three columns that VIDEO.csv has, as texts, or None where there is no such file.

        Raises:
            BadEntry: the file cannot be read as csv.
        """
        path = self.folder / f"{video}.csv"
        if not path.is_file():
            return None
        try:
            table = csv.DictReader(io.StringIO(read_text(path), newline=""), skipinitialspace=True)
            names = table.fieldnames or ()
            rows = list(table)
        except (UserError, csv.Error) as error:
            raise BadEntry(entry_key(video), MALFORMED, f"{path}: {error}") from None
        return {name: [row[name] for row in rows] for name in COLUMNS if name in names}


def narration(raw: Mapping[str, Any] | None, key: str, settings: HowTo100MSource, place: str) -> Narration:
    """The checked captions of one video; `place` says in messages where they stand.

    Raises:
        BadEntry: no captions, columns missing or of unequal length, times that make no clip, captions that
            are no texts, no word in any.
    """
    if raw is None:
        raise BadEntry(key, NO_CAPTIONS, f"the video has no captions in {settings.captions}")
    times, texts = _columns(raw, key, place)
    kept = _clips(times, key, settings, place)
    check_words([text for text, keep in zip(texts, kept, strict=True) if keep], key, settings.wordless, place)
    if settings.wordless == "drop":
        kept &= np.array([has_words(text) for text in texts], dtype=bool)
    if not kept.any():
        raise BadEntry(key, NO_CAPTIONS, f"{place}: none of its {len(kept)} captions is left")
    return Narration(times[kept], tuple(text for text, keep in zip(texts, kept, strict=True) if keep))


def check_reach(times: np.ndarray, seconds: float, key: str, place: str) -> None:
    """Refuse a video whose captions (n, 2) mostly start behind its features, which end at `seconds`."""
    behind = int((times[:, 0] > seconds).sum())
    if behind > MOST_BEHIND * len(times):
        raise BadEntry(
            key,
            BEHIND,
            f"{place}: {behind} of {len(times)} captions start after {seconds:.0f} s, where its features "
            "end: these are cut off or of another video",
        )


def _columns(raw: Mapping[str, Any], key: str, place: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(n, 2) float64 times and n texts; a time that is no number is NaN here."""
    if not isinstance(raw, Mapping) or not set(COLUMNS) <= raw.keys():
        raise BadEntry(key, MALFORMED, f"{place}: expected captions with {', '.join(COLUMNS)}")
    if not all(isinstance(raw[name], list | tuple | np.ndarray) for name in COLUMNS):
        raise BadEntry(key, MALFORMED, f"{place}: expected sequences of {', '.join(COLUMNS)}")
    lengths = {name: len(raw[name]) for name in COLUMNS}
    if len(set(lengths.values())) != 1:
        raise BadEntry(key, MALFORMED, f"{place}: columns of different length: {lengths}")
    pairs = [(_seconds(a), _seconds(b)) for a, b in zip(raw["start"], raw["end"], strict=True)]
    captions = (Caption(text, f"{place}, caption {number}") for number, text in enumerate(raw["text"]))
    texts = caption_texts(captions, key)
    return np.array(pairs, dtype=np.float64).reshape(-1, 2), texts


def _seconds(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def _clips(times: np.ndarray, key: str, settings: HowTo100MSource, place: str) -> np.ndarray:
    """Which captions (n,) have times that make a clip; BadEntry where one has not, unless they are
    dropped."""
    good: np.ndarray = np.isfinite(times).all(axis=1) & (times[:, 0] >= 0) & (times[:, 1] >= times[:, 0])
    if settings.bad_times == "refuse" and not good.all():
        first = int(np.argmin(good))
        raise BadEntry(
            key,
            BAD_TIMES,
            f"{place}: {int((~good).sum())} of {len(good)} captions have reversed, negative or missing "
            f"times, the first is number {first}: {times[first, 0]} to {times[first, 1]} s. bad_times: drop "
            "leaves them out",
        )
    return good
