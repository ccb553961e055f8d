"""Pictures with five captions each: region features of SCAN, and photos by the splits of Karpathy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from swamp_dist.bounds import Count, Width
from swamp_dist.config.names import SplitName
from swamp_dist.settings import Settings

Published = Literal["f30k", "coco", "other"]


class ImageTextSettings(Settings):
    """What both layouts share."""

    data: Published = "other"
    """Which published set it is, for its published counts: f30k (Flickr30K), coco (MS-COCO), or another."""
    captions_per_image: Count = 5
    """Captions of one image, at most; the published figures use 5."""
    wordless: Literal["refuse", "keep", "drop"] = "refuse"
    """Captions without words (empty, no letter in them). `refuse`: they stay beside others, and an entry
    without others is a bad one; `keep`: all stay; `drop`: they are left out, and an entry without others is a
    bad one."""
    sha256: str | None = None
    """Hash of the captions' files (of feature files and others above 2 MiB: size, first and last MiB); others
    are refused. null takes the files as they are; the manifest records their hash either way."""


class ScanSource(ImageTextSettings):
    """Region features and captions in the layout of SCAN (Lee et al. 2018): SPLIT_caps.txt, SPLIT_ims.npy
    and, where there is one, SPLIT_ids.txt. One entry per image."""

    kind: Literal["scan"] = "scan"
    folder: Path
    """Folder of the files, for example f30k_precomp."""
    splits: Annotated[tuple[SplitName, ...], Field(min_length=1)] = ("train", "dev", "test")
    """Splits to take. `test` of coco is the first 1,000 images of `testall`, which the 5K figures and the
    folds of 1,000 need."""
    dev_images: Count | None = 1000
    """Images of `dev` to take, the first ones; as published, where the 1,014 of f30k are cut to 1,000. null
    takes all."""
    width: Width = 2048
    """Values of one region; files of another width are refused."""
    dtype: Literal["float16", "float32"] = "float32"
    """Type of the features in the shards; float16 halves their size and keeps about 3 digits."""

    def path(self, split: str, rest: str) -> Path:
        """The file of a split: `rest` is caps.txt, ims.npy or ids.txt."""
        return self.folder / f"{split}_{rest}"

    def files(self) -> list[Path]:
        """The files whose hash the set keeps."""
        needed = [self.path(split, rest) for split in self.splits for rest in ("caps.txt", "ims.npy")]
        ids = [self.path(split, "ids.txt") for split in self.splits]
        return [*needed, *(path for path in ids if path.is_file())]


class KarpathySource(ImageTextSettings):
    """Photos and captions by a file of Karpathy's splits (dataset_flickr30k.json, dataset_coco.json). One
    entry per image, which is kept as the bytes of its file."""

    kind: Literal["karpathy"] = "karpathy"
    file: Path
    """The .json file."""
    root: Path
    """Folder of the images: ROOT/FILENAME or, where the file says `filepath`, ROOT/FILEPATH/FILENAME."""
    splits: dict[str, SplitName | None] = {"train": "train", "restval": "train", "val": "dev", "test": "test"}
    """Names that the splits of the file get; two with one name are joined (restval belongs to the training
    images of COCO), and null leaves one out. Splits of the file that are not named here are refused."""

    @field_validator("splits")
    @classmethod
    def _takes_some(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        if not any(value.values()):
            raise ValueError(
                "expected the name of at least one split, for example {train: train, test: test}"
            )
        return value

    def files(self) -> list[Path]:
        """The file whose hash the set keeps; of the photos it says nothing."""
        return [self.file]
