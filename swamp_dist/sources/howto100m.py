"""HowTo100M (Miech et al. 2019): one entry a narrated video, with all its captions and feature rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swamp_dist.config import HowTo100MSource
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.records import RawSplit, Sample
from swamp_dist.sources import feature_files, narrations
from swamp_dist.sources.entry_keys import cut_validation, entry_key
from swamp_dist.sources.id_lists import csv_rows


@dataclass(frozen=True)
class Video:
    """One row of the video list."""

    identity: str
    path: str
    """Of its feature file, relative to both feature folders."""


@dataclass(frozen=True)
class Videos:
    """Videos of one split and where their raw data lie; makes samples one by one."""

    videos: Sequence[Video]
    settings: HowTo100MSource
    raw_captions: Callable[[str], Mapping[str, Any] | None]

    def read(self, number: int) -> Sample:
        """Entry `number`: times (n, 2) float64, features_2d (T2, C2) and features_3d (T3, C3), n captions.

        Raises:
            BadEntry: kinds of `captions` and `feature_files`.
        """
        video, settings = self.videos[number], self.settings
        key = entry_key(video.identity)
        said = self._narration(video)
        specs = feature_files.file_specs(settings)
        two = feature_files.read_rows(settings.features_2d / video.path, key, specs[0])
        three = feature_files.read_rows(settings.features_3d / video.path, key, specs[1])
        feature_files.check_lengths(two, three, key, specs, video.path)
        narrations.check_reach(said.times, len(two) / settings.rate_2d, key, self._place(video))
        fields = {"times": said.times, "features_2d": two, "features_3d": three}
        return Sample(key, fields, captions=said.texts)

    def captions(self) -> Iterator[Sequence[str]]:
        """Captions of every entry in turn; none where `read` would refuse them."""
        for video in self.videos:
            try:
                yield self._narration(video).texts
            except BadEntry:
                yield ()

    def _narration(self, video: Video) -> narrations.Narration:
        raw, key = self.raw_captions(video.identity), entry_key(video.identity)
        return narrations.narration(raw, key, self.settings, self._place(video))

    def _place(self, video: Video) -> str:
        file = self.settings.captions
        return f"{file / video.identity}.csv" if file.is_dir() else f"{file}, video {video.identity!r}"


def open_splits(settings: HowTo100MSource) -> Mapping[str, RawSplit]:
    """Split `train`, and `validation` where `validation_share` is above 0; no feature file is opened.

    Raises:
        UserError: the video list or the captions are missing or malformed, or a share is empty.
    """
    raw = narrations.open_captions(settings.captions, settings.pickle_encoding)
    chosen = read_videos(settings.videos, settings.max_videos)
    parts = cut_validation(chosen, lambda video: video.identity, settings.validation_share)
    return {name: _split(Videos(videos, settings, raw)) for name, videos in parts.items()}


def item_fields(settings: HowTo100MSource) -> frozenset[str]:
    """Fields of the samples with several items per entry; the word field that a build adds is one more."""
    return frozenset({"times", "features_2d", "features_3d"})


def read_videos(path: Path, most: int | None = None) -> list[Video]:
    """Videos of a csv with video_id and, where there is one, path; task, task_id and others are ignored.

    Blanks around values are stripped. Without a path the feature file of a video is VIDEO_ID.npy. Reads
    no further than `most` videos.

    Raises:
        UserError: the list is empty or malformed, names a video twice, or a path leaves the feature folders.
    """
    videos, seen = [], set()
    for row in itertools.islice(csv_rows(path, ["video_id"], ["path"]), most):
        identity = row["video_id"]
        relative = row.get("path") or f"{identity}.npy"
        if relative.startswith("/") or ".." in relative.split("/"):
            raise UserError(f"{row.place}, video {identity!r}: path {relative} leaves the feature folders")
        if identity in seen:
            raise UserError(f"{row.place}: video {identity!r} stands twice; an entry is one video")
        seen.add(identity)
        videos.append(Video(identity, relative))
    if not videos:
        raise UserError(f"{path}: holds no rows")
    return videos


def _split(videos: Videos) -> RawSplit:
    keys = [entry_key(video.identity) for video in videos.videos]
    return RawSplit(keys, videos.read, videos.captions)
