"""Published counts go with the splits that the settings open, and with no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swamp_dist.config import (
    HowTo100MSource,
    KarpathySource,
    LsmdcSource,
    MsrVttSource,
    OpenMojiSource,
    ScanSource,
    SyntheticSource,
    YouCook2Source,
)
from swamp_dist.sources.published import published_counts

HERE = Path("here")
COCO = {"train": 113_287, "testall": 5_000}


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        (HowTo100MSource(), {"train": 1_238_911}),
        (HowTo100MSource(max_videos=10), {}),
        (HowTo100MSource(validation_share=0.1), {}),
        (YouCook2Source(), {"train": 10_337, "test": 3_350}),
        (YouCook2Source(test="all"), {"train": 10_337, "test": 3_492}),
        (YouCook2Source(test="all", test_list=Path("a.csv")), {"train": 10_337, "test": 3_350}),
        (YouCook2Source(layout="lists", validation_share=0.1), {"test": 3_350}),
        (MsrVttSource(), {"train": 7_010, "test": 1_000}),
        (MsrVttSource(training="9k", validation_share=0.2), {"test": 1_000}),
        (MsrVttSource(training="other"), {"test": 1_000}),
        (LsmdcSource(), {"train": 101_079, "test": 1_000}),
        (LsmdcSource(validation_list=Path("a")), {"train": 101_079, "validation": 7_408, "test": 1_000}),
        (ScanSource(folder=HERE, data="f30k"), {"train": 29_000, "dev": 1_000, "test": 1_000}),
        (ScanSource(folder=HERE, data="f30k", dev_images=None, splits=("dev",)), {"dev": 1_014}),
        (
            ScanSource(folder=HERE, data="coco", splits=("train", "testall")),
            {"train": 113_287, "testall": 5_000},
        ),
        (ScanSource(folder=HERE), {}),
        (KarpathySource(file=HERE, root=HERE, data="f30k"), {"train": 29_000, "dev": 1_014, "test": 1_000}),
        (KarpathySource(file=HERE, root=HERE, data="coco"), {"train": 113_287, "dev": 5_000, "test": 5_000}),
        (KarpathySource(file=HERE, root=HERE, data="coco", splits={"train": "train"}), {"train": 82_783}),
        (KarpathySource(file=HERE, root=HERE), {}),
        (OpenMojiSource(), {}),
        (SyntheticSource(splits={}), {}),
    ],
)
def test_counts(settings: Any, counts: dict[str, int]) -> None:
    assert published_counts(settings) == counts
