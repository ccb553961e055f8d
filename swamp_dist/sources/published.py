"""How many entries each split has in the publications, to hold a user's copy against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from swamp_dist.config import (
    HowTo100MSource,
    KarpathySource,
    LsmdcSource,
    MsrVttSource,
    ScanSource,
    SketchSettings,
    SourceSettings,
    YouCook2Source,
)
from swamp_dist.sources.published_sketches import sketch_counts

PUBLISHED: Mapping[str, Mapping[str, int]] = {
    # rows of HowTo100M_v1.csv (README of antoine77340/MIL-NCE_HowTo100M); the paper says 1.22 million
    "howto100m": {"train": 1_238_911},
    # youcookii_annotations_trainval.json; test: csv/validation_youcook.csv of MIL-NCE_HowTo100M
    "youcook2": {"train": 10_337, "test": 3_350},
    # all segments of the subset `validation` of the same file
    "youcook2 all": {"train": 10_337, "test": 3_492},
    # youcook_val.pkl is the same test list; no count of youcook_train.pkl is published
    "youcook2 lists": {"test": 3_350},
    # official training (6,513) and validation (497) lists; test: JSFusion's, called 1k-A
    "msrvtt 7k": {"train": 7_010, "test": 1_000},
    # Gabeur et al. 2020: all videos but the 1,000 of 1k-A
    "msrvtt 9k": {"train": 9_000, "test": 1_000},
    "msrvtt other": {"test": 1_000},
    # README of albanie/collaborative-experts: rows, so that a clip with two sentences counts twice
    "lsmdc": {"train": 101_079, "validation": 7_408, "test": 1_000},
    # Karpathy's splits as SCAN has them (Lee et al. 2018, section 4); the public dev has 1,014 images
    "scan f30k": {"train": 29_000, "dev": 1_014, "test": 1_000},
    # 82,783 training images and 30,504 of restval; test: the first 1,000 of testall
    "scan coco": {"train": 113_287, "dev": 1_000, "test": 1_000, "testall": 5_000},
    # the same splits by image, in dataset_flickr30k.json and dataset_coco.json
    "karpathy f30k": {"train": 29_000, "val": 1_014, "test": 1_000},
    "karpathy coco": {"train": 82_783, "restval": 30_504, "val": 5_000, "test": 5_000},
}
"""By data set and variant, then split. A comment names where each row comes from."""


def published_counts(settings: SourceSettings) -> Mapping[str, int]:
    """Published entries of the splits that these settings open; splits nobody has published are left out.

    Where `validation_share` takes from training, the published training count is that of `train` and
    `validation` together, so neither stands here. Sets made by this package have no published counts.
    """
    if isinstance(settings, SketchSettings):
        return sketch_counts(settings)
    if isinstance(settings, KarpathySource):
        return _renamed(PUBLISHED.get(f"karpathy {settings.data}", {}), settings.splits)
    counts = dict(PUBLISHED.get(_variant(settings), {}))
    if isinstance(settings, ScanSource):
        cut = {} if settings.dev_images is None else {"dev": settings.dev_images}
        return {name: min(n, cut.get(name, n)) for name, n in counts.items() if name in settings.splits}
    if isinstance(settings, HowTo100MSource) and settings.max_videos is not None:
        counts.pop("train")
    if isinstance(settings, LsmdcSource) and settings.validation_list is None:
        counts.pop("validation")
    if isinstance(settings, HowTo100MSource | YouCook2Source | MsrVttSource | LsmdcSource):
        return {name: n for name, n in counts.items() if name != "train" or not settings.validation_share}
    return counts


def _renamed(counts: Mapping[str, int], names: Mapping[str, str | None]) -> Mapping[str, int]:
    """Counts of the splits that a recipe makes of those of a file."""
    made: Counter[str] = Counter()
    for split, count in counts.items():
        if (name := names.get(split)) is not None:
            made[name] += count
    return dict(made)


def _variant(settings: SourceSettings) -> str:
    match settings:
        case ScanSource():
            return f"scan {settings.data}"
        case MsrVttSource():
            return f"msrvtt {settings.training}"
        case YouCook2Source(layout="lists"):
            return "youcook2 lists"
        case YouCook2Source(test="all", test_list=None):
            return "youcook2 all"
    return settings.kind
