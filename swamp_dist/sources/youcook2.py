"""YouCook2: one entry a described segment of a cooking video.

Two layouts: the official annotation file with feature files (of whole videos, pooled over the segment like
the clips of HowTo100M but never grown; or one file a segment), and pickled lists of clips that are pooled
already (Miech et al. 2019). Training is the subset `training`; test is the subset `validation`, as the
official test sentences are not public.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swamp_dist.config import YouCook2Source
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.pickles.safe_pickle import read_pickle
from swamp_dist.records import RawSplit
from swamp_dist.sources import feature_files
from swamp_dist.sources.captions import Caption
from swamp_dist.sources.entry_keys import cut_validation, numbered_keys
from swamp_dist.sources.feature_files import FeatureSpec
from swamp_dist.sources.pooled import (
    Clip,
    PooledClips,
    no_features,
    one_vector,
    pooled_specs,
)
from swamp_dist.sources.youcook2_segments import Segment, read_segments, test_segments

BEYOND = "segment beyond the features"
_PARTS = ("2d", "3d", "caption", "id")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentVectors:
    """Pooled vectors of segment number i, from its video's or its own feature files."""

    segments: Sequence[Segment]
    settings: YouCook2Source

    def __call__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """2D (C2,) and 3D (C3,); BadEntry where a file is missing or bad or ends before the segment."""
        settings, segment = self.settings, self.segments[number]
        relative = settings.feature_path.format(**segment.names())
        read = _pooled_over if settings.features_of == "video" else _clip_file
        folders = (settings.features_2d, settings.features_3d)
        two, three = (
            read(segment, folder / relative, spec)
            for folder, spec in zip(folders, feature_files.file_specs(settings), strict=True)
        )
        return two, three


@dataclass(frozen=True)
class ListVectors:
    """Pooled vectors of clip number i of a pickled list."""

    file: Path
    keys: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    specs: tuple[FeatureSpec, FeatureSpec]

    def __call__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """2D (C2,) and 3D (C3,); BadEntry where one is missing or bad."""
        key, row = self.keys[number], self.rows[number]
        for spec, name in zip(self.specs, _PARTS[:2], strict=True):
            if not isinstance(row[name], np.ndarray):
                raise no_features(key, spec.name, f"{self.file}, clip {number}: {name!r} is not an array")
        two, three = (
            one_vector(row[name], key, self.file, spec)
            for spec, name in zip(self.specs, _PARTS[:2], strict=True)
        )
        return two, three


def open_splits(settings: YouCook2Source) -> Mapping[str, RawSplit]:
    """Splits `train` and `test`, and `validation` where `validation_share` is above 0.

    Raises:
        UserError: annotations, lists or pickles are missing or malformed.
    """
    if settings.layout == "lists":
        if settings.validation_share and settings.ids == "clip":
            logger.warning(
                "source.validation_share with layout: lists: the lists do not say which clips are of one "
                "video, so clips of one may be in training and in validation; layout: annotations keeps "
                "videos on one side, and so does ids: video_number where ids are VIDEO_NUMBER"
            )
        parts, test = _open_lists((settings.train_pickle, settings.test_pickle), settings)
        share = cut_validation(parts.clips, lambda clip: clip.group, settings.validation_share)
        splits = {name: _chosen(parts, clips) for name, clips in share.items()}
        return {**splits, "test": test.split()}
    segments = read_segments(settings.annotations)
    _check_subsets(segments, settings.annotations)
    train = [s for s in segments if s.subset == "training"]
    chosen = cut_validation(train, lambda segment: segment.video, settings.validation_share)
    splits = {name: _segment_split(part, settings) for name, part in chosen.items()}
    return {**splits, "test": _segment_split(test_segments(segments, settings), settings)}


def item_fields(settings: YouCook2Source) -> frozenset[str]:
    """No field of the samples has several items; the word field that a build adds has."""
    return frozenset()


def _segment_split(segments: Sequence[Segment], settings: YouCook2Source) -> RawSplit:
    clips = [segment.clip() for segment in segments]
    return PooledClips(clips, SegmentVectors(segments, settings), settings.wordless).split()


def _check_subsets(segments: Sequence[Segment], path: Path) -> None:
    found = Counter(segment.subset for segment in segments)
    if not {"training", "validation"} <= found.keys():
        counts = ", ".join(f"{name!r} ({count:,} segments)" for name, count in found.items())
        raise UserError(
            f"{path}: expected videos of the subsets 'training' and 'validation'; found {counts or 'none'}.\n"
            "Fix: set source.annotations to the official file, or give its videos the official subsets."
        )


def _pooled_over(segment: Segment, path: Path, spec: FeatureSpec) -> np.ndarray:
    rows = feature_files.read_rows(path, segment.key, spec, segment.duration)
    vector = feature_files.pool(rows, segment.start, segment.end, spec.rate)
    if vector is None:
        raise BadEntry(
            segment.key,
            BEYOND,
            f"{path}: {len(rows)} rows end before the segment, {segment.start:g} to {segment.end:g} s",
        )
    return vector


def _clip_file(segment: Segment, path: Path, spec: FeatureSpec) -> np.ndarray:
    return feature_files.read_pooled(path, segment.key, spec)


def _open_lists(paths: Sequence[Path], settings: YouCook2Source) -> list[PooledClips]:
    """Clips of pickled lists; all give float16 if all their vectors are float16, else float32."""
    lists = [_read_list(path, settings) for path in paths]
    vectors = (row[name] for rows in lists for row in rows for name in _PARTS[:2])
    types = {getattr(vector, "dtype", np.dtype("f4")).name for vector in vectors}
    specs = pooled_specs(settings, types)
    return [_list_clips(path, rows, specs, settings) for path, rows in zip(paths, lists, strict=True)]


def _read_list(path: Path, settings: YouCook2Source) -> Sequence[Mapping[str, Any]]:
    """A pickled list of {2d: (C2,), 3d: (C3,), caption, id}."""
    rows = read_pickle(path, settings.pickle_encoding)
    if not isinstance(rows, list | tuple) or not rows:
        raise UserError(f"{path}: expected a list of clips, found {type(rows).__name__}")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not set(_PARTS) <= row.keys():
            raise UserError(
                f"{path}, clip {number}: expected {{2d, 3d, caption, id}}, found {_describe_row(row)}"
            )
        if not isinstance(row["id"], str | int | float) or row["id"] == "":
            raise UserError(
                f"{path}, clip {number}: expected a text or number as id, found {type(row['id']).__name__}"
            )
    return rows


def _list_clips(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    specs: tuple[FeatureSpec, FeatureSpec],
    settings: YouCook2Source,
) -> PooledClips:
    """The clips of a list; their ids may repeat."""
    identities = [str(row["id"]) for row in rows]
    keys = numbered_keys(identities)
    clips = []
    for number, (key, name, row) in enumerate(zip(keys, identities, rows, strict=True)):
        where = f"{path}, clip {number}"
        video = _video_of(name, where) if settings.ids == "video_number" else name
        clips.append(Clip(key, name, (Caption(row["caption"], where),), video, where))
    return PooledClips(clips, ListVectors(path, keys, rows, specs), settings.wordless)


def _video_of(identity: str, where: str) -> str:
    """VIDEO of an id VIDEO_NUMBER.

    Raises:
        UserError: the id has another form.
    """
    video, _, number = identity.rpartition("_")
    if not video or not number.isdecimal():
        raise UserError(
            f"{where}: expected an id VIDEO_NUMBER, found {identity!r}.\n"
            "Fix: source.ids = clip, where ids do not say which video a clip is of."
        )
    return video


def _chosen(whole: PooledClips, clips: Sequence[Clip]) -> RawSplit:
    numbers = {clip.key: number for number, clip in enumerate(whole.clips)}
    vectors = Renumbered(whole, [numbers[clip.key] for clip in clips])
    return PooledClips(clips, vectors, whole.wordless).split()


@dataclass(frozen=True)
class Renumbered:
    """Vectors of some clips of a list, numbered anew."""

    whole: PooledClips
    numbers: Sequence[int]

    def __call__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """2D and 3D vector of the chosen clip `number`."""
        return self.whole.vectors(self.numbers[number])


def _describe_row(row: object) -> str:
    return str(sorted(map(str, row))[:6]) if isinstance(row, dict) else type(row).__name__
