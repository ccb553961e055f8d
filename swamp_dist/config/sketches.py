"""Sketches and photos of classes that training does not see: three published sets, as folders or as lists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from swamp_dist.bounds import CountOrNone, Seed
from swamp_dist.settings import Settings

ZeroShotSplit = Literal["sketchy21", "sketchy25", "sake30", "quickdraw30"]


class SketchSettings(Settings):
    """What all sketch sets share: which classes are unseen."""

    split: ZeroShotSplit | None = None
    """The unseen classes, those of the splits test and test_photos, by a published list: sketchy21
    (zeroshot0, of Yelamarthi et al. 2018), sketchy25 (zeroshot1, of SAKE), sake30 (TU-Berlin) or
    quickdraw30. Figures on two of them do not compare."""
    split_file: Path | None = None
    """Instead: a file with one unseen class per line, for example `test.txt` of a run of Doodle2Search."""
    validation_classes: CountOrNone | None = None
    """Seen classes that form validation and validation_photos, drawn by validation_seed; null: as
    Doodle2Search, a tenth, rounded up (of TU-Berlin 20), 0: none, and train has all."""
    validation_seed: Seed = 42
    """Seed of Python's shuffle that draws them, 42 as published."""
    order: Path | None = None
    """File with one class per line whose order the drawing starts from, as the class_labels.txt that
    Doodle2Search reads; null: alphabetical. Every seen class stands in it."""
    incomplete: Literal["refuse", "drop"] = "refuse"
    """Classes without any sketch or without any photo: refuse the set, or leave them out. An unseen class is
    never left out."""
    sha256: str | None = None
    """Hash of the lists that were read; others are refused. null takes them as they are; the manifest records
    their hash either way."""

    @model_validator(mode="after")
    def _has_unseen_classes(self) -> SketchSettings:
        if self._needs_split() and (self.split is None) == (self.split_file is None):
            raise ValueError(
                "give either split (sketchy21, sketchy25, sake30, quickdraw30) or split_file with one unseen "
                "class per line"
            )
        return self

    def _needs_split(self) -> bool:
        return True

    def files(self) -> list[Path]:
        """The files whose hash the set keeps; of the images it says nothing."""
        return [file for file in (self.split_file, self.order) if file is not None]


class SketchFolderSettings(SketchSettings):
    """Folders with one folder per class in each. Files beside the folders of classes are passed over."""

    folder: Path
    """The folder that the others are relative to."""
    sketches: str
    """Folder of the sketches below `folder`, CLASS/*.png."""
    photos: str
    """Folder of the photos below `folder`, CLASS/*.jpg."""


class SketchySource(SketchFolderSettings):
    """Sketchy-Extended (Sangkloy et al. 2016, Liu et al. 2017): 125 classes, in Doodle2Search's layout."""

    kind: Literal["sketchy"] = "sketchy"
    sketches: str = "Sketchy/sketch/tx_000000000000"
    """Folder of the sketches below `folder`. The set has six renderings of each; published figures use this
    one."""
    photos: str = "EXTEND_image_sketchy"
    """Folder of the extended photos below `folder`: 73,002, with copies of the 12,500 that were sketched."""
    originals: bool = False
    """Add the folder of the 12,500 photos that were sketched to the gallery, where they then stand twice, as
    in the lists of SAKE; Doodle2Search takes the extended folder alone."""
    original_photos: str = "Sketchy/photo/tx_000000000000"
    """Folder of those photos below `folder`."""


class TuBerlinSource(SketchFolderSettings):
    """TU-Berlin-Extended (Eitz et al. 2012, Zhang et al. 2016): 250 classes with 80 sketches each."""

    kind: Literal["tuberlin"] = "tuberlin"
    sketches: str = "sketches"
    """Folder of the sketches below `folder`."""
    photos: str = "images"
    """Folder of the photos below `folder`."""


class QuickDrawSource(SketchFolderSettings):
    """QuickDraw-Extended (Dey et al. 2019): 110 classes with 3,000 sketches each."""

    kind: Literal["quickdraw"] = "quickdraw"
    sketches: str = "QuickDraw_sketches_final"
    """Folder of the sketches below `folder`."""
    photos: str = "QuickDraw_images_final"
    """Folder of the photos below `folder`."""


class SketchListsSource(SketchSettings):
    """Sketches and photos by the lists of SAKE (Liu et al. 2019) and ZSE-SBIR: `path/of/file.png NUMBER` per
    line, the names of the numbers in cname_cid.txt and cname_cid_zero.txt."""

    kind: Literal["sketch_lists"] = "sketch_lists"
    root: Path
    """Folder that the paths in the lists are relative to."""
    lists: Path
    """Folder of the six files below."""
    train_sketches: str = "sketch_tx_000000000000_ready_filelist_train.txt"
    """List of the sketches of seen classes (of TU-Berlin png_ready_filelist_train.txt)."""
    train_photos: str = "all_photo_filelist_train.txt"
    """List of the photos of seen classes (of TU-Berlin ImageResized_ready_filelist_train.txt)."""
    train_names: str = "cname_cid.txt"
    """Names of the numbers in both."""
    test_sketches: str = "sketch_tx_000000000000_ready_filelist_zero.txt"
    """List of the sketches of unseen classes."""
    test_photos: str = "all_photo_filelist_zero.txt"
    """List of the photos of unseen classes."""
    test_names: str = "cname_cid_zero.txt"
    """Names of the numbers in both, which start from 0 again."""
    replace: dict[Annotated[str, Field(min_length=1)], str] = {}
    """Parts of paths that are called otherwise here, for example {_ready: ""} for copies that were not
    resized."""

    def _needs_split(self) -> bool:
        return False  # the lists say which classes are unseen; a split that is given is compared with them

    @model_validator(mode="after")
    def _lists_are_the_split(self) -> SketchListsSource:
        if self.split_file is not None:
            raise ValueError("split_file: the lists say which classes are unseen; leave it out")
        return self

    def files(self) -> list[Path]:
        """The six lists."""
        names = (
            self.train_sketches, self.train_photos, self.train_names,
            self.test_sketches, self.test_photos, self.test_names,
        )  # fmt: skip
        return [*(self.lists / name for name in names), *super().files()]


PublishedSketchSource: TypeAlias = SketchySource | TuBerlinSource | QuickDrawSource | SketchListsSource
"""The sources of published sets."""
