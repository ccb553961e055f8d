"""Feature files of videos (.npy), each checked before use: a bad file is named, not trained on.

The layout is that of the public extractor (antoine77340/video_feature_extractor): float16, one row of
2048 per second for 2D (ResNet-152) and 1.5 rows per second for 3D (ResNeXt-101 on blocks of 16 frames at
24/s, the last one padded, so ceil(24 * seconds / 16) rows). A video that decodes to one 2D frame gets no 2D
file at all; it is a BadEntry of kind "no 2D features".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swamp_dist.config import FeatureFileSettings
from swamp_dist.errors import BadEntry
from swamp_dist.npy_files import read_npy_header

FAULTS = (
    "no {} features", "{} features unreadable", "{} features of wrong shape", "{} features of wrong dtype",
    "{} features not finite", "{} features at wrong rate", "{} features not of unit length",
)  # fmt: skip
"""Kinds of BadEntry raised here, with 2D or 3D for {}."""
LENGTHS_DISAGREE = "2D and 3D lengths disagree"

ROW_SLACK = 2
"""Rows that a file may have more or fewer than its duration says, besides SHARE_SLACK: how the last second
is rounded differs between decoders."""
SHARE_SLACK = 0.02
"""Share of the rows, for durations that the list and the decoded file give differently."""
UNIT_SLACK = 0.02


@dataclass(frozen=True)
class FeatureSpec:
    """What files of one kind hold."""

    name: str
    """2D or 3D"""
    width: int
    """Values per row."""
    rate: float
    """Rows per second."""
    dtype: str
    """float16 or float32: dtype of the arrays handed out."""
    unit_rows: bool = False
    """Refuse rows that are not of length 1 (zero rows pass)."""


def file_specs(settings: FeatureFileSettings) -> tuple[FeatureSpec, FeatureSpec]:
    """What 2D and 3D files must hold."""
    return (
        FeatureSpec("2D", settings.width_2d, settings.rate_2d, settings.dtype, settings.unit_rows),
        FeatureSpec("3D", settings.width_3d, settings.rate_3d, settings.dtype, settings.unit_rows),
    )


def read_rows(path: Path, key: str, spec: FeatureSpec, seconds: float | None = None) -> np.ndarray:
    """Rows of a whole video (T, width) in spec.dtype; with `seconds` T must fit rate and duration.

    Raises:
        BadEntry: kinds as in FAULTS; the message names the file.
    """
    rows = check_features(_read(path, key, spec), path, key, spec)
    if rows.ndim != 2:
        raise _bad(
            key, spec, 2, path, f"expected rows (T, {spec.width}) of the whole video, found {rows.shape}"
        )
    if seconds is not None:
        _check_rate(len(rows), seconds, path, key, spec)
    return rows


def read_pooled(path: Path, key: str, spec: FeatureSpec) -> np.ndarray:
    """The vector (width,) of a clip's own file: (width,) as stored, or the maximum over (T, width).

    Raises:
        BadEntry: kinds as in FAULTS; the message names the file.
    """
    values = check_features(_read(path, key, spec), path, key, spec)
    pooled: np.ndarray = values.max(axis=0) if values.ndim == 2 else values
    return pooled


def pool(rows: np.ndarray, start: float, end: float, rate: float) -> np.ndarray | None:
    """Maximum over rows[int(start * rate) : int(end * rate) + 1] of (T, C), or None where that is empty.

    The slice is that of Miech et al. 2019 (howto100m, youtube_dataloader.py); times in seconds.
    """
    chosen = rows[int(start * rate) : int(end * rate) + 1]
    if not len(chosen):
        return None
    pooled: np.ndarray = chosen.max(axis=0)
    return pooled


def check_lengths(
    two: np.ndarray, three: np.ndarray, key: str, specs: tuple[FeatureSpec, FeatureSpec], place: str
) -> None:
    """Refuse 2D and 3D rows (T, C) that cannot be of one video, where no list gives its duration.

    Raises:
        BadEntry: kind LENGTHS_DISAGREE.
    """
    ratio = specs[1].rate / specs[0].rate
    expected = ratio * len(two)
    if abs(len(three) - expected) > ROW_SLACK + ratio + SHARE_SLACK * expected:
        raise BadEntry(
            key,
            LENGTHS_DISAGREE,
            f"{place}: {len(two)} 2D rows at {specs[0].rate:g}/s go with about {expected:.0f} 3D rows at "
            f"{specs[1].rate:g}/s, found {len(three)}; extract the shorter one again, or set rate_2d and "
            "rate_3d",
        )


def check_features(array: np.ndarray, where: Path, key: str, spec: FeatureSpec) -> np.ndarray:
    """The array (T, width) or (width,) in spec.dtype if it is what `spec` says; `where` is named in errors.

    float16 may become float32, which is exact; the reverse is refused.
    """
    _check_header(array.shape, array.dtype, where, key, spec)
    if not np.isfinite(array).all():
        raise _bad(key, spec, 4, where, f"{int((~np.isfinite(array)).sum())} values are NaN or infinite")
    if spec.unit_rows:
        _check_norms(array, where, key, spec)
    return array.astype(spec.dtype, copy=False)


def _read(path: Path, key: str, spec: FeatureSpec) -> np.ndarray:
    """The array of an npy file; shape, dtype and size are compared before anything large is read."""
    if not path.is_file():
        raise _bad(key, spec, 0, path, "no such file")
    try:
        with path.open("rb") as file:
            header = read_npy_header(file)
            _check_header(header.shape, header.dtype, path, key, spec)
            left = path.stat().st_size - file.tell()
            if left != header.bytes:
                raise ValueError(f"{left} bytes of data for {header.dtype} {header.shape}")
            values = np.fromfile(file, header.dtype)
    except (OSError, ValueError, EOFError) as error:
        raise _bad(key, spec, 1, path, f"not a plain npy file: {error}") from None
    return values.reshape(header.shape, order="F" if header.fortran else "C")


def _check_header(
    shape: tuple[int, ...], dtype: np.dtype[Any], where: Path, key: str, spec: FeatureSpec
) -> None:
    if len(shape) not in (1, 2) or shape[-1] != spec.width or 0 in shape:
        raise _bad(key, spec, 2, where, f"expected (T, {spec.width}) or ({spec.width},), found {shape}")
    native = dtype.newbyteorder("=").name
    if native not in ("float16", "float32"):
        raise _bad(key, spec, 3, where, f"expected float16 or float32, found {dtype}")
    if native == "float32" and spec.dtype == "float16":
        raise _bad(key, spec, 3, where, "float32 where the recipe says dtype: float16; set dtype: float32")


def _check_rate(rows: int, seconds: float, path: Path, key: str, spec: FeatureSpec) -> None:
    expected = math.ceil(spec.rate * seconds)
    if abs(rows - expected) > ROW_SLACK + SHARE_SLACK * expected:
        raise _bad(
            key,
            spec,
            5,
            path,
            f"{rows} rows; {seconds:g} s at {spec.rate:g} rows/s give {expected} "
            f"(+- {ROW_SLACK} and {SHARE_SLACK:.0%}). The file is cut off, or of another rate: "
            f"set rate_{spec.name.lower()}",
        )


def _check_norms(array: np.ndarray, where: Path, key: str, spec: FeatureSpec) -> None:
    norms = np.linalg.norm(np.atleast_2d(array).astype(np.float32), axis=1)
    off = (np.abs(norms - 1) > UNIT_SLACK) & (norms > 0)
    if off.any():
        raise _bad(
            key, spec, 6, where,
            f"{int(off.sum())} of {len(norms)} rows have another length than 1, up to {norms.max():.3g}; the "
            "public extractor normalises rows. Set unit_rows: false to take them as they are",
        )  # fmt: skip


def _bad(key: str, spec: FeatureSpec, fault: int, where: Path, finding: str) -> BadEntry:
    return BadEntry(key, FAULTS[fault].format(spec.name), f"{where}: {finding}")
