"""HowTo100M: every caption layout gives the same entries; what is wrong with one video is named."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swamp_dist.data.sample_checks import checked_samples
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.records import RawSplit
from swamp_dist.sources import howto100m
from tests.sources import raw_layouts
from tests.sources.raw_layouts import NARRATION, SECONDS, VIDEOS, WIDTH, unit_rows, write_captions, write_rows


def train_of(settings: Any) -> RawSplit:
    return howto100m.open_splits(settings)["train"]


def fault(split: RawSplit, number: int = 0) -> BadEntry:
    with pytest.raises(BadEntry) as caught:
        split.read(number)
    assert caught.value.key == split.keys[number]
    return caught.value


@pytest.mark.parametrize("form", ["pickle", "json", "folder"])
def test_every_caption_layout_gives_the_same_entries(tmp_path: Path, form: str) -> None:
    settings = raw_layouts.howto100m(tmp_path, form)
    split = train_of(settings)
    assert split.keys == [f"v_{video}" for video in VIDEOS]
    sample = split.read(0)
    assert sample.captions == ("chop the onions", "fry them", "")
    np.testing.assert_array_equal(sample.fields["times"], np.array([[0, 5], [4.5, 9.5], [9, 12.25]], "f4"))
    assert {n: (a.dtype.name, a.shape) for n, a in sample.fields.items()} == {
        "times": ("float64", (3, 2)),
        "features_2d": ("float16", (40, WIDTH)),
        "features_3d": ("float16", (60, WIDTH)),
    }
    np.testing.assert_array_equal(sample.fields["features_2d"], np.load(tmp_path / "2d/-dash_first00.npy"))
    assert split.captions is not None
    assert list(split.captions()) == [("chop the onions", "fry them", "")] * 4
    samples = [split.read(i) for i in range(len(split.keys))]
    assert len(list(checked_samples(samples, "train", {}, howto100m.item_fields(settings)))) == 4


def test_csv_captions_are_read_when_asked_for(tmp_path: Path) -> None:
    split = train_of(raw_layouts.howto100m(tmp_path, "folder"))
    (tmp_path / "captions" / f"{VIDEOS[1]}.csv").write_text("start,end,text\n1,2,later\n")
    assert split.read(1).captions == ("later",)


def test_paths_and_columns_of_the_list(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "a.csv", ("task", " video_id", "path"), [(7, "a", " sub/a.npy "), (7, "b", "")]
    )
    assert [(v.identity, v.path) for v in howto100m.read_videos(path)] == [("a", "sub/a.npy"), ("b", "b.npy")]
    for rows, message in (
        ([(7, "a", "../a.npy")], "leaves the feature folders"),
        ([(7, "a", "/a.npy")], "leaves the feature folders"),
        ([(7, "a", ""), (7, "a", "")], "'a' stands twice"),
        ([], "holds no rows"),
    ):
        with pytest.raises(UserError, match=message):
            howto100m.read_videos(write_rows(tmp_path / "a.csv", ("task", "video_id", "path"), rows))
    (tmp_path / "a.csv").write_text("id,path\na,a.npy\n")
    with pytest.raises(UserError, match=r"a\.csv: expected a csv with columns video_id; found id, path"):
        howto100m.read_videos(tmp_path / "a.csv")


def test_max_videos_and_validation_share_cut_the_list(tmp_path: Path) -> None:
    settings = raw_layouts.howto100m(tmp_path, max_videos=3, validation_share=0.5)
    splits = howto100m.open_splits(settings)
    held_out, kept = splits["validation"].keys, splits["train"].keys
    assert sorted([*held_out, *kept]) == sorted(f"v_{video}" for video in VIDEOS[:3])
    assert held_out
    assert not set(held_out) & set(kept)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "reversed": ({"end": [5.0, 4.0, 12.0]}, "caption times"),
    "negative": ({"start": [-1.0, 4.5, 9.0]}, "caption times"),
    "not finite": ({"end": [5.0, math.nan, 12.0]}, "caption times"),
    "endless": ({"end": [5.0, math.inf, 12.0]}, "caption times"),
    "no number": ({"start": [0.0, "x", 9.0]}, "caption times"),
    "unequal": ({"text": ["a"]}, "captions malformed"),
    "no sequence": ({"text": 3}, "captions malformed"),
    "no text": ({"text": ["a", 7, "b"]}, "captions malformed"),
    "behind": ({"start": [50, 60, 9.0], "end": [51, 61, 12.0]}, "captions beyond the features"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_captions_are_named(tmp_path: Path, name: str) -> None:
    change, kind = BAD[name]
    settings = raw_layouts.howto100m(tmp_path)
    write_captions(tmp_path, "json", {VIDEOS[0]: {**NARRATION, **change}})
    split = train_of(settings)
    assert fault(split).kind == kind
    assert str(settings.captions) in str(fault(split))
    assert fault(split, 1).kind == "no captions"  # not in the file any more


@pytest.mark.parametrize("form", ["json", "pickle"])
def test_a_video_without_words_is_kept_unless_it_shall_not_be(tmp_path: Path, form: str) -> None:
    settings = raw_layouts.howto100m(tmp_path, form)
    write_captions(tmp_path, form, {VIDEOS[0]: {**NARRATION, "text": [None, "...", math.nan]}})
    split = train_of(settings)
    assert split.read(0).captions == ("", "...", "")
    for wordless in ("refuse", "drop"):
        refusing = train_of(settings.model_copy(update={"wordless": wordless}))
        assert fault(refusing).kind == "caption without words"
        assert f"{settings.captions}, video '{VIDEOS[0]}': none of its captions" in str(fault(refusing))


def test_bad_times_and_wordless_captions_can_be_dropped(tmp_path: Path) -> None:
    settings = raw_layouts.howto100m(tmp_path, bad_times="drop", wordless="drop")
    write_captions(tmp_path, "json", {VIDEOS[0]: {**NARRATION, "end": [5.0, 4.0, 12.0]}})
    sample = train_of(settings).read(0)
    assert sample.captions == ("chop the onions",)
    np.testing.assert_array_equal(sample.fields["times"], [[0, 5]])


def test_a_csv_without_its_columns_or_in_another_encoding_is_one_bad_entry(tmp_path: Path) -> None:
    split = train_of(raw_layouts.howto100m(tmp_path, "folder"))
    place = tmp_path / "captions" / f"{VIDEOS[0]}.csv"
    for content in (b"begin,end,text\n1,2,x\n", b"", b"start,end,text\n1,2,\xe8\n"):
        place.write_bytes(content)
        assert fault(split).kind == "captions malformed"
    assert split.captions is not None
    assert [len(c) for c in split.captions()] == [0, 3, 3, 3]


def test_features_of_another_length_or_missing_are_named(tmp_path: Path) -> None:
    split = train_of(raw_layouts.howto100m(tmp_path))
    np.save(tmp_path / f"3d/{VIDEOS[0]}.npy", unit_rows(0, SECONDS, 1.0))
    assert fault(split).kind == "2D and 3D lengths disagree"
    (tmp_path / f"2d/{VIDEOS[1]}.npy").unlink()
    assert fault(split, 1).kind == "no 2D features"


def test_captions_of_no_known_form_are_refused(tmp_path: Path) -> None:
    settings = raw_layouts.howto100m(tmp_path)
    (tmp_path / "caption.json").write_text("[1, 2]")
    with pytest.raises(UserError, match=r"caption\.json: expected a JSON object"):
        howto100m.open_splits(settings)
    with pytest.raises(UserError, match=r"nothing is there.\nFix: set source\.captions"):
        howto100m.open_splits(settings.model_copy(update={"captions": tmp_path / "none"}))
    (tmp_path / "caption.pickle").write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match="expected a dictionary of videos, found list"):
        howto100m.open_splits(settings.model_copy(update={"captions": tmp_path / "caption.pickle"}))


def test_a_split_can_travel_to_another_process(tmp_path: Path) -> None:
    for form in ("folder", "json"):
        settings = raw_layouts.howto100m(tmp_path / form, form)
        there: RawSplit = pickle.loads(pickle.dumps(train_of(settings)))
        assert there.read(2).captions == ("chop the onions", "fry them", "")
