"""Clips whose captions are about motion: small packages in the published layout, and a browser that is not
there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from swamp_dist.config import MotionSource
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.sources import motion
from swamp_dist.sources.emoji import Concept, Picture
from swamp_dist.sources.motion import check_frames, deal_motions
from swamp_dist.sources.moving_pictures import Motion
from swamp_dist.sources.packages import MARKER
from tests.sources.test_emoji import downloads as downloads

MOVES = ("bounceInLeft", "bounceInRight", "fadeOut", "pulse", "zoomIn", "fadeInUpBig")


@pytest.fixture
def packages(downloads: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packages of emoji, a small animate.css, and frames that count up instead of drawn ones."""
    folder = downloads / motion.ANIMATIONS.folder
    (folder / "package").mkdir(parents=True)
    css = "".join(f"@keyframes {name} {{ from {{ opacity: 0 }} to {{ opacity: 1 }} }}" for name in MOVES)
    (folder / "package/animate.css").write_text(css)
    (folder / MARKER).write_text(f'{{"archive_sha256": "{motion.ANIMATIONS.sha256}"}}')

    def draw(clips: Sequence[Motion], css: str, frames: int, size: int) -> np.ndarray:
        count = np.arange(len(clips) * frames, dtype=np.uint8).reshape(len(clips), frames, 1, 1, 1)
        return np.ascontiguousarray(np.broadcast_to(count, (len(clips), frames, 3, size, size)))

    monkeypatch.setattr(motion, "draw_clips", draw)
    return downloads


def settings(packages: Path, **options: object) -> MotionSource:
    sizes = {"train_pictures": 4, "validation_pictures": 2, "test_pictures": 3, "clips_per_picture": 3}
    return MotionSource.model_validate(
        {"download": packages, "frames": 5, "size": 16, **sizes, **options}, strict=False
    )


def concept_of(key: str) -> str:
    """The concept of a clip of the tiny packages: genders of surfers are one."""
    code = key.split("-")[1]
    return "surfing" if code == "1f3c4" else code


def test_an_entry_is_a_clip_with_its_caption_and_motion(packages: Path) -> None:
    pytest.importorskip("resvg_py")
    splits = motion.open_splits(settings(packages))
    assert {name: len(split.keys) for name, split in splits.items()} == {
        "train": 12,
        "validation": 6,
        "test": 9,
    }
    train = splits["train"]
    sample = train.read(2)
    frames = sample.fields["frames"]
    assert isinstance(frames, np.ndarray)
    assert (frames.dtype, frames.shape) == (np.uint8, (5, 3, 16, 16))
    assert frames[:, 0, 0, 0].tolist() == [10, 11, 12, 13, 14], "the third clip's frames, in their order"
    said = {"bounceInLeft": "bounces in from the left", "pulse": "pulses once", "zoomIn": "zooms in"} | {
        "bounceInRight": "bounces in from the right",
        "fadeOut": "fades out",
    }
    move = sample.key.rpartition("-")[2]
    assert sample.captions[0].endswith(f" {said[move]}")
    assert train.class_names == tuple(said[name] for name in sorted(said))
    assert train.class_names[sample.label] == said[move] == sample.text["label"]
    assert train.captions is not None
    assert [tuple(each) for each in train.captions()] == [
        train.read(i).captions for i in range(len(train.keys))
    ]


def test_no_concept_is_in_two_splits_and_held_out_pictures_have_one_each(packages: Path) -> None:
    pytest.importorskip("resvg_py")
    for seed in range(4):
        splits = motion.open_splits(settings(packages, seed=seed))
        shown = {name: {concept_of(key) for key in split.keys} for name, split in splits.items()}
        assert not shown["train"] & shown["validation"]
        assert not (shown["train"] | shown["validation"]) & shown["test"]
        assert (len(shown["validation"]), len(shown["test"])) == (2, 3)


def test_the_same_recipe_gives_the_same_clips_and_draws_them_once(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("resvg_py")
    first = motion.open_splits(settings(packages))
    monkeypatch.setattr(motion, "draw_clips", None)
    again = motion.open_splits(settings(packages))
    assert [list(split.keys) for split in first.values()] == [list(split.keys) for split in again.values()]


@given(pictures=st.integers(1, 40), each=st.integers(1, 5), seed=st.integers(0, 3))
def test_motions_are_dealt_evenly_and_once_to_a_picture(pictures: int, each: int, seed: int) -> None:
    moves = {name: name for name in MOVES}
    drawn = [
        Picture(Concept(f"{i:x}", f"thing {i}", (f"thing {i}",), 0), "noto", "") for i in range(pictures)
    ]
    clips = deal_motions(drawn, moves, MotionSource(clips_per_picture=each, seed=seed))
    assert len({clip.key for clip in clips}) == len(clips) == pictures * each
    counts = [sum(clip.motion == name for clip in clips) for name in moves]
    assert max(counts) - min(counts) <= 1


def test_frames_that_are_no_clip_are_bad_entries() -> None:
    good = np.full((4, 3, 8, 8), 255, dtype=np.uint8)
    good[2, 0, 3, 3] = 0
    check_frames("x", good, 4)
    for frames, kind in (
        (good[:3], "too few frames"),
        (np.full_like(good, 255), "empty clip"),
        (np.repeat(good[2:3], 4, axis=0), "no motion"),
    ):
        with pytest.raises(BadEntry) as found:
            check_frames("x", frames, 4)
        assert found.value.kind == kind


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"motions": ("pulse", "twirl")}, "unknown motion twirl.\nFix: choose among bounceInLeft"),
        ({"motions": ("pulse", "zoomIn")}, "clips_per_picture = 3: only 2 motions"),
        ({"train_pictures": 50}, "train_pictures = 50: .* are left for training"),
        ({"test_pictures": 30}, "too few for test_items = 30"),
    ],
)
def test_what_cannot_be_dealt_is_named(packages: Path, options: dict[str, object], said: str) -> None:
    pytest.importorskip("resvg_py")
    with pytest.raises(UserError, match=said):
        motion.open_splits(settings(packages, **options))


def test_a_package_without_its_style_sheet_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="animate.css has it there"):
        motion.read_css(tmp_path)


def test_a_motion_stands_once_in_a_recipe() -> None:
    with pytest.raises(ValidationError, match="expected every motion once"):
        MotionSource(motions=("pulse", "pulse"))
