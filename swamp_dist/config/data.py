"""Which shard set a stage reads and how an epoch is ordered."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from swamp_dist.bounds import Bytes, Count, CountOrNone, Factor, Scale
from swamp_dist.config.images import ImageSettings
from swamp_dist.config.names import SplitName
from swamp_dist.config.partners import PartnerSettings
from swamp_dist.settings import SAME_RESULT, WORKING_FOLDER, Settings


class ClipSettings(Settings):
    """How clips are cut from entries that hold a whole video: captions with times, features by time."""

    parts: dict[str, Scale] = {"features_2d": 1.0, "features_3d": 1.5}
    """Fields of features by time, each with its rows per second; a clip is their maxima, one after the
    other."""
    times: str = "times"
    """Field with the start and end of every caption in seconds."""
    on: Literal["a", "b"] = "b"
    """The modality that is cut from the features; its name in `data` is then only a name. The other
    one is the field of captions (word ids)."""
    min_seconds: Factor = 5.0
    """A shorter clip is joined with its neighbours, the nearer one first; 0 joins by words alone, and takes
    the neighbour with more words first."""
    min_words: CountOrNone = 0
    """A clip of fewer tokens is joined with its neighbours."""
    replace: bool = True
    """Draw a video's captions with replacement, as the published loader does; the same clip can then
    stand twice in a batch. false takes every caption once before one comes again."""

    @model_validator(mode="after")
    def _has_parts(self) -> ClipSettings:
        if not self.parts:
            raise ValueError("parts names no features: expected at least one field with its rows per second")
        return self


_SHARE_UNIT = 10_000


class BlendedSet(Settings):
    """One shard set of a blend."""

    shards: Annotated[Path, WORKING_FOLDER]
    """Folder of a built shard set, relative to the working folder."""
    recipe: Annotated[Path | None, SAME_RESULT] = None
    """Shard recipe that builds the folder, relative to the file that says it; errors name it in the build
    command."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Share of the entries that training draws from this set; at most four decimals. All shares together
    are 1."""
    split: str | None = None
    """Split that is drawn from; null: data.train_split."""

    @property
    def exact_share(self) -> Fraction:
        """The share as it is written, for example 7/10."""
        return Fraction(repr(self.share))

    @model_validator(mode="after")
    def _share_is_short(self) -> BlendedSet:
        if (self.exact_share * _SHARE_UNIT).denominator != 1:
            raise ValueError(
                f"share = {self.share!r}: expected at most four decimals, for example 0.3333, 0.3333 and "
                "0.3334 for three sets"
            )
        return self


class DataSettings(Settings):
    """Which shard set is read, and how an epoch is ordered."""

    shards: Annotated[Path, WORKING_FOLDER]
    """Folder of a built shard set (the one that holds manifest.json), relative to the working folder. With
    `blend`, the set that validation and evaluation read."""
    recipe: Annotated[Path | None, SAME_RESULT] = None
    """Shard recipe that builds the folder, relative to the file that says it; errors name it in the build
    command."""
    a: str = "text"
    """Field of the shard entries that is modality A; also its display name in tables."""
    b: str = "video"
    """Field of the shard entries that is modality B; also its display name in tables."""
    blend: dict[SplitName, BlendedSet] | None = None
    """Shard sets, by names of your choice, that training draws from instead of `shards`, each with its share
    of the entries; null: training draws from `shards` alone."""
    train_split: str | None = "train"
    """Split that training reads; unused by a stage without `train`."""
    entries: Count = 256
    """Global batch in entries, over all ranks. World size must divide the lanes, lanes this number."""
    class_group: Count = 1
    """Entries of one class that a batch takes at a time, as far as the class has them; it divides `entries`.
    What is left of classes makes groups of several. 1: classes do not decide what meets in a batch. For
    `objective.contrastive.positives: class`."""
    pairs_per_entry: Count = 1
    """Pairs drawn from each entry of a batch; fields with several items (captions, clips) are sampled."""
    clips: ClipSettings | None = None
    """Entries are whole videos, whose pairs are clips cut while training; null: fields hold the items."""
    partners: PartnerSettings | None = None
    """Pairs are drawn by class from two splits; null: an entry holds both modalities."""
    images: ImageSettings = ImageSettings()
    """How encoded images become pixels; used where a field holds images."""
    lanes: Count | None = None
    """Streams the epoch is cut into; null = largest divisor of `entries` up to 1,024. Fixes which
    samples meet in a batch, so it belongs to the stage and never to the cluster."""
    full_shuffle_below: Bytes = 8 * 2**30
    """Splits smaller than this many bytes are permuted as a whole; larger ones shard- and block-wise."""
    shuffle_block: Count = 2048
    """Entries permuted together where the split is too large for a full permutation."""
    cache: Annotated[Literal["none", "memory"], SAME_RESULT] = "none"
    """`memory` keeps every decoded entry of the split in each rank's memory (small sets only); images stay
    encoded there."""
    reading: Annotated[Literal["seek", "stream"], SAME_RESULT] = "seek"
    """`seek` reads entries by byte offset; `stream` reads shards front to back, for storage that
    cannot seek. Same order of samples either way."""
    workers: Annotated[int, Field(ge=0, le=1024), SAME_RESULT] = 2
    """Loader processes per rank; 0 reads in the training process. Never changes the sample order. An
    evaluation decodes images with as many threads."""
    prefetch: Annotated[int, Field(ge=1, le=10**4), SAME_RESULT] = 4
    """Batches each loader process prepares ahead."""
    verify: Annotated[bool, SAME_RESULT] = False
    """Compare the sha256 of every shard with the manifest before the first step."""

    @property
    def names(self) -> tuple[str, str]:
        """Display names of both modalities."""
        names = None if self.partners is None else self.partners.names
        return (self.a, self.b) if names is None else (names.a, names.b)

    @property
    def training_sets(self) -> dict[str, BlendedSet]:
        """What training draws from, in the order of their names; without `blend`, `shards` alone."""
        if self.blend is None:
            return {"shards": BlendedSet(shards=self.shards, recipe=self.recipe, share=1.0)}
        return dict(sorted(self.blend.items()))

    @property
    def num_lanes(self) -> int:
        """Lanes of an epoch: the setting, or the largest divisor of `entries` up to 1,024."""
        if self.lanes is not None:
            return self.lanes
        return max(n for n in range(1, min(self.entries, 1024) + 1) if self.entries % n == 0)

    @model_validator(mode="after")
    def _shares_are_a_whole(self) -> DataSettings:
        if self.blend is None:
            return self
        total = sum((each.exact_share for each in self.blend.values()), Fraction(0))
        if total != 1:
            shares = ", ".join(f"{name} {each.share:g}" for name, each in self.blend.items()) or "no sets"
            raise ValueError(f"blend: expected shares of sum 1, found {shares}: {float(total):g} together")
        return self

    @model_validator(mode="after")
    def _partners_can_be_drawn(self) -> DataSettings:
        if self.partners is None:
            return self
        for name, found in (("clips", self.clips), ("blend", self.blend)):
            if found is not None:
                raise ValueError(f"partners and {name} are both given: set one of them to null")
        if self.reading == "stream":
            raise ValueError(
                "partners are drawn at random, which reading = stream cannot serve: set reading to seek, or "
                "copy the set to storage that can seek"
            )
        if self.partners.split == self.train_split and self.a == self.b:
            raise ValueError(
                f"partners.split = {self.partners.split} is train_split, and a and b are both {self.a}: an "
                "entry would be its own partner; name another split or another field"
            )
        return self

    @model_validator(mode="after")
    def _class_groups_can_be_made(self) -> DataSettings:
        if self.class_group == 1:
            return self
        if self.entries % self.class_group:
            raise ValueError(
                f"class_group = {self.class_group} does not divide entries = {self.entries}: "
                f"{_divisors_near(self.class_group, self.entries)}"
            )
        if self.blend is not None:
            raise ValueError(
                "class_group and blend are both given, but what a set gives to a batch of a blend changes "
                "from step to step and would cut groups: set class_group to 1 or blend to null"
            )
        if self.reading == "stream":
            raise ValueError(
                "class_group takes entries from everywhere in the split, which reading = stream cannot "
                "serve: set reading to seek, or class_group to 1"
            )
        return self

    @model_validator(mode="after")
    def _lanes_divide_the_batch(self) -> DataSettings:
        if self.entries % self.num_lanes:
            raise ValueError(
                f"lanes = {self.lanes} does not divide entries = {self.entries}: "
                f"{_divisors_near(self.num_lanes, self.entries)}"
            )
        return self


def _divisors_near(number: int, whole: int) -> str:
    """The fix of a number that does not divide `whole`: the divisors next to it."""
    small = [n for n in range(1, isqrt(whole) + 1) if whole % n == 0]
    divisors = sorted({*small, *(whole // n for n in small)})
    below = max(n for n in divisors if n < number)
    above = [n for n in divisors if n > number][:1]
    return f"choose {' or '.join(map(str, [below, *above]))}"
