"""The segments of YouCook2's official annotation file, and which of them are the published test list."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swamp_dist.config import YouCook2Source
from swamp_dist.errors import UserError
from swamp_dist.sources.captions import Caption
from swamp_dist.sources.entry_keys import entry_key
from swamp_dist.sources.id_lists import json_member, read_csv
from swamp_dist.sources.pooled import Clip

LEFT_OUT = frozenset({
    "1bac7c00427c", "22220fe20461", "2d0af8928d85", "309b3e01e81a", "3dbc01f0fc29", "40986f1fa061",
    "43231a037b4e", "459fdbdecb5b", "463943d6267d", "54f520a5e790", "6204610683fb", "6380421f35fa",
    "84d5742a0a22", "85da4fd97009", "91dc63bde819", "9cda08e66a16", "c08a553754fb", "cca02c495234",
    "d316fbd86808", "ed93436708bd", "f96b69be18a6",
})  # fmt: skip
"""The published list of 3,350 test segments (antoine77340/MIL-NCE_HowTo100M, csv/validation_youcook.csv) has
every segment of 436 of the 457 validation videos; the other 21 could not be had any more. These are the first
12 hex digits of the sha256 of their ids, as nothing in the annotations tells them apart."""


@dataclass(frozen=True)
class Segment:
    """One described segment."""

    video: str
    number: int
    """Its `id` within the video."""
    start: float
    """Seconds, like `end` and `duration`."""
    end: float
    caption: Caption
    duration: float
    """Of the video."""
    subset: str
    recipe_type: str
    start_end_text: tuple[str, str]
    """Start and end as the file writes them, for file names."""

    @property
    def sentence(self) -> str:
        """The caption where it is a text, else ""; lists may name a segment by it."""
        return str(self.caption.value).strip() if isinstance(self.caption.value, str) else ""

    @property
    def key(self) -> str:
        """Key of the entry: the video id with the segment's number."""
        return entry_key(self.video, self.number)

    def clip(self) -> Clip:
        """As an entry of a pooled set; segments of a video stay on one side of a validation cut."""
        return Clip(self.key, self.video, (self.caption,), self.video, self.caption.place)

    def names(self) -> Mapping[str, object]:
        """What a feature path may name."""
        start, end = self.start_end_text
        return {
            "video_id": self.video, "id": self.number, "start": start, "end": end,
            "subset": self.subset, "recipe_type": self.recipe_type,
        }  # fmt: skip


def read_segments(path: Path) -> list[Segment]:
    """Segments of all videos in the order of the file {database: {video: {duration, subset, annotations}}}.

    Raises:
        UserError: the file is missing or another one, a segment has no time span or an id stands twice.
    """
    segments, seen = [], set()
    for video, record in json_member(path, "database", dict).items():
        for number, entry in enumerate(_annotations(record, video, path)):
            segment = _segment(video, record, entry, f"{path}, video {video!r}, annotation {number}")
            if segment.key in seen:
                raise UserError(f"{path}, video {video!r}: two annotations have the id {segment.number}")
            seen.add(segment.key)
            segments.append(segment)
    return segments


def test_segments(segments: Sequence[Segment], settings: YouCook2Source) -> list[Segment]:
    """The test segments: those of `test_list` if there is one, else all of the validation videos, without
    the 21 videos of LEFT_OUT under `test: public`.

    Raises:
        UserError: a row of the list is no validation segment of the annotations, or there are none.
    """
    validation = [s for s in segments if s.subset == "validation"]
    if settings.test_list is not None:
        return _order_by_list(validation, settings.test_list)
    return [s for s in validation if settings.test == "all" or not is_left_out(s.video)]


def is_left_out(video: str) -> bool:
    """Whether a validation video is not in the published test list."""
    return hashlib.sha256(video.encode()).hexdigest()[:12] in LEFT_OUT


def _order_by_list(segments: Sequence[Segment], path: Path) -> list[Segment]:
    """The segments of a csv in its order. Two segments of one time span are told apart by their sentence."""
    spans: defaultdict[tuple[str, float, float], list[Segment]] = defaultdict(list)
    for segment in segments:
        spans[segment.video, segment.start, segment.end].append(segment)
    chosen = []
    for row in read_csv(path, ["video_id", "start", "end", "text"]):
        here = spans[row["video_id"], _number(row["start"]), _number(row["end"])]
        if not here:
            raise UserError(
                f"{row.place}: the annotations have no (further) validation segment of "
                f"{row['video_id']!r} from {row['start']} to {row['end']} s.\n"
                "Fix: source.test_list must name segments of source.annotations."
            )
        texts = [segment.sentence for segment in here]
        chosen.append(here.pop(texts.index(row["text"]) if row["text"] in texts else 0))
    return chosen


def _annotations(record: Any, video: str, path: Path) -> Sequence[Any]:
    wanted = {"duration", "subset", "annotations"}
    if not isinstance(record, dict) or not wanted <= record.keys():
        raise UserError(f"{path}, video {video!r}: expected {', '.join(sorted(wanted))}")
    if not isinstance(record["annotations"], list):
        raise UserError(f"{path}, video {video!r}: annotations is no list")
    annotations: Sequence[Any] = record["annotations"]
    return annotations


def _segment(video: str, record: Mapping[str, Any], entry: Any, where: str) -> Segment:
    try:
        first, last = entry["segment"]
        start, end, duration = _number(first), _number(last), _number(record["duration"])
        number, sentence = int(entry["id"]), Caption(entry["sentence"], where)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{where}: expected segment [start, end], id and sentence; {error!r}") from None
    if not (math.isfinite(end) and 0 <= start < end):
        raise UserError(f"{where}: segment {start} to {end} s is no time span")
    if not (math.isfinite(duration) and duration > 0):
        raise UserError(f"{where}: the video's duration is {record['duration']!r}, expected seconds")
    return Segment(
        video, number, start, end, sentence, duration, str(record["subset"]),
        str(record.get("recipe_type", "")), (str(first), str(last)),
    )  # fmt: skip


def _number(value: object) -> float:
    """A number of seconds; NaN, equal to nothing, where a text is none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except ValueError:
        return float("nan")
