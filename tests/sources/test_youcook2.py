"""YouCook2: both layouts, the test lists, and what is wrong with one segment."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swamp_dist.config import YouCook2Source
from swamp_dist.data.sample_checks import checked_samples
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.records import RawSplit
from swamp_dist.sources import youcook2, youcook2_segments
from tests.sources import raw_layouts
from tests.sources.raw_layouts import SECONDS, WIDTH, segment, unit_rows, write_rows


def kind_of(split: RawSplit, number: int = 0) -> str:
    with pytest.raises(BadEntry) as caught:
        split.read(number)
    assert caught.value.key == split.keys[number]
    return caught.value.kind


def test_segments_are_pooled_from_the_videos_rows(tmp_path: Path) -> None:
    splits = youcook2.open_splits(raw_layouts.youcook2(tmp_path))
    assert {name: list(split.keys) for name, split in splits.items()} == {
        "train": ["v0_-train0", "v1_-train0", "v0_train1", "v1_train1"],
        "test": ["v0__test0", "v1__test0"],
    }
    sample = splits["train"].read(1)
    two, three = (np.load(tmp_path / d / "-train0.npy") for d in ("2d", "3d"))
    expected = np.concatenate([two[30:37].max(axis=0), three[45:55].max(axis=0)])
    np.testing.assert_array_equal(sample.fields["video"], expected)
    assert sample.fields["video"].dtype == np.float16
    assert sample.captions == ("serve it",)
    captions = splits["test"].captions
    assert captions is not None
    assert list(captions()) == [("peel it",), ("serve it",)]
    samples = [split.read(i) for split in splits.values() for i in range(len(split.keys))]
    assert len(list(checked_samples(samples, "train", {}, frozenset()))) == 6


def test_clip_files_are_found_by_their_pattern(tmp_path: Path) -> None:
    settings = raw_layouts.youcook2(
        tmp_path, features_of="clip", feature_path="{subset}/{recipe_type}/{video_id}_{id}_{start}_{end}.npy"
    )
    row = unit_rows(3, 1, 1)[0]
    for folder in (settings.features_2d, settings.features_3d):
        (folder / "training" / "113").mkdir(parents=True)
        np.save(folder / "training" / "113" / "-train0_1_30_36.npy", row)
    split = youcook2.open_splits(settings)["train"]
    np.testing.assert_array_equal(split.read(1).fields["video"], np.concatenate([row, row]))
    assert kind_of(split, 0) == "no 2D features"


def test_unknown_parts_of_a_pattern_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a path with {video_id}"):
        YouCook2Source(feature_path="{video}.npy")


def test_bad_segments_are_named(tmp_path: Path) -> None:
    settings = raw_layouts.youcook2(tmp_path)
    database = json.loads(settings.annotations.read_text())
    video = database["database"]["-train0"]
    video["annotations"] = [
        segment(0, 41, 44, "too late"),
        segment(1, 1, 2, " ... "),
        segment(2, 1, 2, "fine"),
        segment(3, 1, 2, None),
        segment(4, 1, 2, 7),
    ]
    settings.annotations.write_text(json.dumps(database))
    split = youcook2.open_splits(settings)["train"]
    assert kind_of(split, 0) == "segment beyond the features"
    assert kind_of(split, 1) == kind_of(split, 3) == "caption without words"
    assert kind_of(split, 4) == "captions malformed"
    with pytest.raises(BadEntry, match=r"json, video '-train0', annotation 3: the caption has no word"):
        split.read(3)
    np.save(tmp_path / "3d" / "-train0.npy", unit_rows(0, SECONDS, 1.0))
    assert kind_of(split, 2) == "3D features at wrong rate"
    (tmp_path / "2d" / "-train0.npy").unlink()
    assert kind_of(split, 2) == "no 2D features"


def test_subsets_of_other_names_are_told(tmp_path: Path) -> None:
    settings = raw_layouts.youcook2(tmp_path)
    text = settings.annotations.read_text().replace('"validation"', '"val"')
    settings.annotations.write_text(text)
    expected = r"json: expected videos of the subsets 'training' and 'validation'; found 'training' \("
    with pytest.raises(UserError, match=expected):
        youcook2.open_splits(settings)


BROKEN: dict[str, tuple[Any, str]] = {
    "reversed": ([segment(0, 9, 3, "x")], "segment 9.0 to 3.0 s is no time span"),
    "negative": ([segment(0, -1, 3, "x")], "is no time span"),
    "text": ([segment(0, 1, "x", "x")], "is no time span"),  # type: ignore[arg-type]
    "no sentence": ([{"segment": [1, 2], "id": 0}], "annotation 0: expected segment"),
    "no list": ({}, "annotations is no list"),
    "same id": ([segment(0, 1, 2, "x"), segment(0, 3, 4, "y")], "two annotations have the id 0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_annotations_are_refused_by_place(tmp_path: Path, name: str) -> None:
    annotations, message = BROKEN[name]
    settings = raw_layouts.youcook2(tmp_path)
    record = {"duration": 40, "subset": "training", "annotations": annotations}
    settings.annotations.write_text(json.dumps({"database": {"abc": record}}))
    with pytest.raises(UserError, match=f"annotations.json, video 'abc'.*{message}"):
        youcook2.open_splits(settings)


@pytest.mark.parametrize("record", [{"duration": 4}, [], {"duration": -1, "subset": "training"}])
def test_broken_videos_are_refused_by_place(tmp_path: Path, record: Any) -> None:
    settings = raw_layouts.youcook2(tmp_path)
    if "subset" in record:
        record["annotations"] = [segment(0, 1, 2, "x")]
    settings.annotations.write_text(json.dumps({"database": {"abc": record}}))
    with pytest.raises(UserError, match=r"annotations\.json, video 'abc'.*duration"):
        youcook2.open_splits(settings)


def test_a_test_list_names_segments_in_its_order(tmp_path: Path) -> None:
    settings = raw_layouts.youcook2(tmp_path)
    database = json.loads(settings.annotations.read_text())
    twins = [segment(0, 1, 2, "first"), segment(1, 1, 2, "second"), segment(2, 5, 9, "third")]
    database["database"]["_test0"]["annotations"] = twins
    settings.annotations.write_text(json.dumps(database))
    rows = [(9, 5, "third", "_test0"), (2, 1, "second", "_test0"), (2, 1, "reworded", "_test0")]
    columns = ("end", "start", "text", "video_id")
    listed = settings.model_copy(update={"test_list": write_rows(tmp_path / "test.csv", columns, rows)})
    assert youcook2.open_splits(listed)["test"].keys == ["v2__test0", "v1__test0", "v0__test0"]
    write_rows(tmp_path / "test.csv", columns, [*rows, (2, 1, "a third twin", "_test0")])
    with pytest.raises(UserError, match=r"test\.csv:5: .*no \(further\) validation segment of '_test0'"):
        youcook2.open_splits(listed)
    write_rows(tmp_path / "test.csv", columns, [(7, 2, "peel it", "-train0")])
    with pytest.raises(UserError, match="no .further. validation segment of '-train0'"):
        youcook2.open_splits(listed)


def test_public_test_leaves_out_the_videos_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = raw_layouts.youcook2(tmp_path)
    assert not youcook2_segments.is_left_out("_test0")
    digest = hashlib.sha256(b"_test0").hexdigest()[:12]
    monkeypatch.setattr(youcook2_segments, "LEFT_OUT", frozenset({digest}))
    assert youcook2.open_splits(settings)["test"].keys == []
    every = settings.model_copy(update={"test": "all"})
    assert len(youcook2.open_splits(every)["test"].keys) == 2


def test_validation_takes_whole_videos(tmp_path: Path) -> None:
    settings = raw_layouts.youcook2(tmp_path, validation_share=0.7)
    splits = youcook2.open_splits(settings)
    sides = {name: {key.split("_", 1)[1] for key in splits[name].keys} for name in ("train", "validation")}
    assert sorted(map(len, sides.values())) == [1, 1]
    assert not sides["train"] & sides["validation"]
    for split in splits.values():
        assert split.read(0).key == split.keys[0]


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickled_lists_are_read_with_repeated_ids(tmp_path: Path, protocol: int) -> None:
    splits = youcook2.open_splits(raw_layouts.youcook2_lists(tmp_path, protocol))
    assert splits["train"].keys == ["v_0", "v1_0", "v_1", "v1_1"]
    sample = splits["test"].read(3)
    assert sample.fields["video"].dtype == np.float32
    np.testing.assert_array_equal(sample.fields["video"], [3.0] * WIDTH + [-3.0] * WIDTH)
    assert sample.captions == ("stir 3",)


def test_validation_of_pickled_lists_keeps_clips_with_their_vectors(tmp_path: Path) -> None:
    splits = youcook2.open_splits(raw_layouts.youcook2_lists(tmp_path, validation_share=0.31))
    assert sum(len(splits[name].keys) for name in splits) == 8
    assert len(splits) == 3
    for split in splits.values():
        for number in range(len(split.keys)):
            sample = split.read(number)
            assert sample.captions == (f"stir {sample.fields['video'][0]:.0f}",)


def test_validation_of_pickled_lists_takes_whole_videos_where_ids_name_them(tmp_path: Path) -> None:
    settings = raw_layouts.youcook2_lists(tmp_path, validation_share=0.5, ids="video_number")
    names = [f"long_name{video}_{clip}" for video in range(8) for clip in range(3)]
    for name in ("train", "val"):
        clips = [
            {"2d": np.zeros(WIDTH, "f4"), "3d": np.zeros(WIDTH, "f4"), "caption": "stir", "id": n}
            for n in names
        ]
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(clips))
    splits = youcook2.open_splits(settings)
    sides = {name: {key.rpartition("_")[0] for key in splits[name].keys} for name in ("train", "validation")}
    assert all(sides.values())
    assert not sides["train"] & sides["validation"]
    assert sum(len(splits[name].keys) for name in sides) == len(names)


@pytest.mark.parametrize("name", ["video", "video_", "_1", "video_one", 7])
def test_an_id_without_a_video_is_named(tmp_path: Path, name: object) -> None:
    settings = raw_layouts.youcook2_lists(tmp_path, validation_share=0.5, ids="video_number")
    clips = [
        {"2d": np.zeros(WIDTH, "f4"), "3d": np.zeros(WIDTH, "f4"), "caption": "stir", "id": n}
        for n in ("v_0", name)
    ]
    (tmp_path / "train.pkl").write_bytes(pickle.dumps(clips))
    with pytest.raises(UserError, match=r"train\.pkl, clip 1: expected an id VIDEO_NUMBER, found"):
        youcook2.open_splits(settings)


def test_bad_clips_of_a_list_are_named(tmp_path: Path) -> None:
    settings = raw_layouts.youcook2_lists(tmp_path)
    good = np.zeros(WIDTH, "f4")
    clips = [
        {"2d": good[:-1], "3d": good, "caption": "a", "id": 0},
        {"2d": good, "3d": good + np.nan, "caption": "a", "id": 1},
        {"2d": good, "3d": None, "caption": "a", "id": 2},
        {"2d": good, "3d": good.astype("f8"), "caption": "a", "id": 3},
        {"2d": good, "3d": good, "caption": "?", "id": 4},
        {"2d": good, "3d": good, "caption": None, "id": 5},
        {"2d": good, "3d": good, "caption": ["a"], "id": 6},
    ]
    settings.train_pickle.write_bytes(pickle.dumps(clips))
    split = youcook2.open_splits(settings)["train"]
    assert [kind_of(split, i) for i in range(7)] == [
        "2D features of wrong shape", "3D features not finite", "no 3D features",
        "3D features of wrong dtype", "caption without words", "caption without words", "captions malformed",
    ]  # fmt: skip
    with pytest.raises(BadEntry, match=r"pkl, clip 6: expected a text, found list"):
        split.read(6)
    clips[0]["id"] = ["a"]
    settings.train_pickle.write_bytes(pickle.dumps(clips))
    with pytest.raises(UserError, match=r"pkl, clip 0: expected a text or number as id, found list"):
        youcook2.open_splits(settings)
    for wrong, message in (([{"2d": good}], "clip 0: expected"), ({"a": 1}, "expected a list"), ([], "list")):
        settings.train_pickle.write_bytes(pickle.dumps(wrong))
        with pytest.raises(UserError, match=message):
            youcook2.open_splits(settings)
