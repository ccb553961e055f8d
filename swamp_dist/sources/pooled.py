"""Pooled sets: entries with one vector a clip, 2D features followed by 3D features, and its captions.

Values stay as stored. Each part is brought to length 1 by the encoder, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swamp_dist.config import VideoFeatureSettings
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.pickles.safe_pickle import read_tensors
from swamp_dist.records import RawSplit, Sample
from swamp_dist.sources import feature_files
from swamp_dist.sources.captions import Caption, Wordless, kept_texts
from swamp_dist.sources.feature_files import FeatureSpec


@dataclass(frozen=True)
class Clip:
    """One entry before its features are read."""

    key: str
    identity: str
    """What its features are found by."""
    captions: tuple[Caption, ...]
    group: str
    """Video or movie: entries of one group stay on one side of a validation cut."""
    place: str
    """File and line or row that lists it, for messages."""


@dataclass(frozen=True)
class PooledClips:
    """Clips of one split and how the two vectors of clip number i are had; makes samples one by one."""

    clips: Sequence[Clip]
    vectors: Callable[[int], tuple[np.ndarray, np.ndarray]]
    """2D (C2,) and 3D (C3,) of one dtype; raises BadEntry."""
    wordless: Wordless

    def read(self, number: int) -> Sample:
        """Entry `number`: video (C2 + C3,), and its captions.

        Raises:
            BadEntry: no features or bad ones, or captions that `kept_texts` refuses.
        """
        clip = self.clips[number]
        texts = kept_texts(clip.captions, clip.key, self.wordless, clip.place)
        return Sample(clip.key, {"video": np.concatenate(self.vectors(number))}, captions=texts)

    def captions(self) -> Iterator[Sequence[str]]:
        """Captions of every entry in turn; none where `read` would refuse them."""
        for clip in self.clips:
            try:
                yield kept_texts(clip.captions, clip.key, self.wordless, clip.place)
            except BadEntry:
                yield ()

    def split(self) -> RawSplit:
        """As a raw split."""
        return RawSplit([clip.key for clip in self.clips], self.read, self.captions)


@dataclass(frozen=True)
class FeatureTables:
    """2D and 3D vectors by id, as torch.save wrote them."""

    file: Path
    tables: tuple[Mapping[str, Any], Mapping[str, Any]]
    specs: tuple[FeatureSpec, FeatureSpec]

    def vectors(self, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
        """The clip's 2D and 3D vector, in the dtype of the specs; BadEntry where one is missing or bad."""
        two, three = (
            _vector(table.get(clip.identity), clip, self.file, spec)
            for table, spec in zip(self.tables, self.specs, strict=True)
        )
        return two, three


@dataclass(frozen=True)
class TableVectors:
    """Vectors of clip number i from tables; a class, so that a split can travel to another process."""

    clips: Sequence[Clip]
    tables: FeatureTables

    def __call__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """2D and 3D vector of clip `number`."""
        return self.tables.vectors(self.clips[number])


def open_tables(paths: Sequence[Path], settings: VideoFeatureSettings) -> list[FeatureTables]:
    """The tables {2d: {id: tensor}, 3d: {id: tensor}} of every file of a set.

    All of them give float16 if all vectors of all files are float16, else float32: a set has one type.

    Raises:
        UserError: a file is missing, damaged, unsafe, or holds something else.
    """
    found = [_read_tables(path) for path in paths]
    vectors = (vector for tables in found for table in tables for vector in table.values())
    types = {str(getattr(vector, "dtype", None)).removeprefix("torch.") for vector in vectors}
    specs = pooled_specs(settings, types)
    return [FeatureTables(path, tables, specs) for path, tables in zip(paths, found, strict=True)]


def _read_tables(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    found = read_tensors(path)
    sides = [found.get(name) for name in ("2d", "3d")] if isinstance(found, dict) else []
    tables = [side for side in sides if isinstance(side, dict) and side]
    if len(tables) != 2:
        what = sorted(map(str, found))[:5] if isinstance(found, dict) else type(found).__name__
        raise UserError(f"{path}: expected {{'2d': {{id: tensor}}, '3d': {{id: tensor}}}}; found {what}")
    return tables[0], tables[1]


def pooled_specs(settings: VideoFeatureSettings, types: set[str]) -> tuple[FeatureSpec, FeatureSpec]:
    """Specs of vectors stored in `types` (dtype names): float16 stays only if there is nothing else."""
    dtype = "float16" if types == {"float16"} else "float32"
    return FeatureSpec("2D", settings.width_2d, 1.0, dtype), FeatureSpec("3D", settings.width_3d, 1.5, dtype)


def table_split(clips: Sequence[Clip], tables: FeatureTables, wordless: Wordless) -> RawSplit:
    """A split of clips whose features stand in tables."""
    return PooledClips(clips, TableVectors(clips, tables), wordless).split()


def no_features(key: str, name: str, finding: str) -> BadEntry:
    """The error of an entry whose 2D or 3D features (`name`) are nowhere."""
    return BadEntry(key, feature_files.FAULTS[0].format(name), finding)


def _vector(value: Any, clip: Clip, file: Path, spec: FeatureSpec) -> np.ndarray:
    if value is None:
        finding = f"{clip.place} lists it, and {file} has none for the id {clip.identity!r}"
        raise no_features(clip.key, spec.name, finding)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = feature_files.FAULTS[3].format(spec.name)
        raise BadEntry(clip.key, kind, f"{file}: expected float16 or float32, found {error}") from None
    return one_vector(array, clip.key, file, spec)


def one_vector(array: np.ndarray, key: str, file: Path, spec: FeatureSpec) -> np.ndarray:
    """The vector (width,) as `spec` says; (1, width) counts as one. BadEntry for anything else."""
    values = feature_files.check_features(array, file, key, spec)
    if values.size != spec.width:
        raise BadEntry(
            key,
            feature_files.FAULTS[2].format(spec.name),
            f"{file}: expected ({spec.width},), found {values.shape}",
        )
    return values.reshape(spec.width)
