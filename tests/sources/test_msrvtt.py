"""MSR-VTT: all captions in training, one in test; lists that do not go together are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from swamp_dist.config import MsrVttSource
from swamp_dist.data.sample_checks import checked_samples
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.records import RawSplit
from swamp_dist.sources import msrvtt
from tests.sources import raw_layouts
from tests.sources.raw_layouts import WIDTH, write_rows, write_tables


def kind_of(split: RawSplit, number: int = 0) -> str:
    with pytest.raises(BadEntry) as caught:
        split.read(number)
    assert caught.value.key == split.keys[number]
    return caught.value.kind


def test_training_has_all_captions_of_a_video_and_test_one(tmp_path: Path) -> None:
    splits = msrvtt.open_splits(raw_layouts.msrvtt(tmp_path))
    assert list(splits) == ["train", "test"]
    assert splits["train"].keys == ["v_video0", "v_video1", "v_video2"]
    assert splits["train"].read(0).captions == tuple(f"video0 caption {i}" for i in range(3))
    sample = splits["test"].read(1)
    assert sample.captions == ("a test, of video9771",)
    np.testing.assert_array_equal(sample.fields["video"], [1.0] * WIDTH + [-1.0] * WIDTH)
    captions = splits["train"].captions
    assert captions is not None
    assert [len(c) for c in captions()] == [3, 1, 2]
    samples = [split.read(i) for split in splits.values() for i in range(len(split.keys))]
    assert len(list(checked_samples(samples, "train", {}, frozenset()))) == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_vectors_stay_as_stored(tmp_path: Path, dtype: torch.dtype) -> None:
    settings = raw_layouts.msrvtt(tmp_path)
    for old in (True, False):
        ids = ["video0", "video1", "video2"]
        write_tables(settings.train_features, ids, dtype, _use_new_zipfile_serialization=not old)
        write_tables(settings.test_features, ["video9770", "video9771"], dtype)
        video = msrvtt.open_splits(settings)["train"].read(2).fields["video"]
        assert video.dtype.name == str(dtype).removeprefix("torch.")


def test_all_tables_of_a_set_decide_its_type(tmp_path: Path) -> None:
    settings = raw_layouts.msrvtt(tmp_path)
    write_tables(settings.train_features, ["video0"], torch.float16)
    for half, expected in ((True, "float16"), (False, "float32")):
        write_tables(settings.test_features, ["video9771"], torch.float16 if half else torch.float32)
        splits = msrvtt.open_splits(settings)
        found = [splits["train"].read(0), splits["test"].read(1)]
        assert [sample.fields["video"].dtype.name for sample in found] == [expected] * 2


def test_lists_are_joined_and_repeats_refused(tmp_path: Path) -> None:
    more = tmp_path / "more.txt"
    more.write_text("video7\n\nvideo8\n")
    settings = raw_layouts.msrvtt(tmp_path)
    lists = (*settings.train_lists, more)
    joined = settings.model_copy(update={"train_lists": lists})
    split = msrvtt.open_splits(joined)["train"]
    assert split.keys == [f"v_video{i}" for i in (0, 1, 2, 7, 8)]
    assert kind_of(split, 4) == "no captions"
    with pytest.raises(BadEntry, match=r"more\.txt:3 lists it, but there is no sentence"):
        split.read(4)
    more.write_text("video1\n")
    with pytest.raises(UserError, match=r"train\.csv:3 and .*more\.txt:1: 1 ids stand twice.* 'video1'"):
        msrvtt.open_splits(joined)


def test_training_on_test_videos_is_refused(tmp_path: Path) -> None:
    settings = raw_layouts.msrvtt(tmp_path)
    write_rows(settings.train_lists[0], ("video_id",), [("video0",), ("video9771",)])
    with pytest.raises(UserError, match=r"1 videos of train_lists are test videos.*video9771"):
        msrvtt.open_splits(settings)


def test_ids_without_features_or_words_are_named(tmp_path: Path) -> None:
    settings = raw_layouts.msrvtt(tmp_path)
    good = torch.zeros(WIDTH)
    tables = {
        "2d": {"video0": good, "video1": good, "video2": good.double()},
        "3d": {"video1": good[:2], "video2": good},
    }
    torch.save(tables, settings.train_features)
    split = msrvtt.open_splits(settings)["train"]
    kinds = ["no 3D features", "3D features of wrong shape", "2D features of wrong dtype"]
    assert [kind_of(split, i) for i in range(3)] == kinds
    with pytest.raises(
        BadEntry, match=r"train\.csv:2 lists it, and .*train\.pth has none for the id 'video0'"
    ):
        split.read(0)
    tables["2d"] = {"video0": good / 0, "video1": good[None], "video2": good.bfloat16()}
    tables["3d"] = {"video0": good, "video1": good, "video2": good}
    torch.save(tables, settings.train_features)
    split = msrvtt.open_splits(settings)["train"]
    assert kind_of(split, 0) == "2D features not finite"
    assert split.read(1).fields["video"].shape == (2 * WIDTH,)  # (1, width) is one vector
    assert kind_of(split, 2) == "2D features of wrong dtype"


def train_with(settings: MsrVttSource, *captions: object) -> RawSplit:
    sentences = [{"video_id": "video0", "caption": caption} for caption in captions]
    settings.captions.write_text(json.dumps({"sentences": sentences}))
    return msrvtt.open_splits(settings)["train"]


def test_a_video_is_left_out_where_no_caption_has_a_word_and_kept_where_one_has(tmp_path: Path) -> None:
    settings = raw_layouts.msrvtt(tmp_path)
    assert train_with(settings, "words", "?").read(0).captions == ("words", "?")
    assert kind_of(train_with(settings, "?", "  ")) == "caption without words"
    for nothing in (None, math.nan, "", " "):
        split = train_with(settings, nothing)
        assert kind_of(split) == "caption without words"
        assert split.captions is not None
        assert next(iter(split.captions())) == ()
        assert train_with(settings, nothing, "words").read(0).captions == ("", "words")
    with pytest.raises(BadEntry, match=r"data\.json: sentence 0: .*wordless: keep"):
        train_with(settings, None).read(0)


@pytest.mark.parametrize("value", [7, True, 1.5, ["a man", "b"], {"a": "b"}])
def test_a_caption_that_is_no_text_makes_a_bad_entry(tmp_path: Path, value: object) -> None:
    for wordless in ("refuse", "keep", "drop"):
        split = train_with(raw_layouts.msrvtt(tmp_path, wordless=wordless), "fine", value)
        assert kind_of(split) == "captions malformed"
        found = rf"data\.json: sentence 1: expected a text, found {type(value).__name__}"
        with pytest.raises(BadEntry, match=found):
            split.read(0)


def test_wordless_captions_are_kept_or_dropped_where_that_is_asked_for(tmp_path: Path) -> None:
    keep = raw_layouts.msrvtt(tmp_path, wordless="keep")
    assert train_with(keep, None, "?").read(0).captions == ("", "?")
    write_rows(keep.test_list, ("video_id", "sentence"), [("video9771", ""), ("video9771", "...")])
    test = msrvtt.open_splits(keep)["test"]
    assert [test.read(i).captions for i in (0, 1)] == [("",), ("...",)]
    drop = keep.model_copy(update={"wordless": "drop"})
    assert train_with(drop, None, "words", "?").read(0).captions == ("words",)
    assert kind_of(train_with(drop, None, "?")) == "caption without words"
    with pytest.raises(BadEntry, match=r"test\.csv:2: the caption has no word"):
        msrvtt.open_splits(drop)["test"].read(0)


def test_rows_without_an_id_are_named_by_line(tmp_path: Path) -> None:
    settings = raw_layouts.msrvtt(tmp_path)
    write_rows(settings.test_list, ("video_id", "sentence"), [("video9771", "a"), (" ", "b")])
    with pytest.raises(UserError, match=r"test\.csv:3: video_id is empty"):
        msrvtt.open_splits(settings)
    for video in (None, 3, ""):
        settings.captions.write_text(json.dumps({"sentences": [{"video_id": video, "caption": "x"}]}))
        with pytest.raises(UserError, match=r"data\.json: sentence 0: expected a text as video_id"):
            msrvtt.open_splits(settings)


def test_other_files_in_the_place_of_one_are_refused(tmp_path: Path) -> None:
    settings = raw_layouts.msrvtt(tmp_path)
    torch.save({"video0": torch.zeros(3)}, settings.train_features)
    with pytest.raises(UserError, match=r"train\.pth: expected .*found \['video0'\]"):
        msrvtt.open_splits(settings)
    settings.captions.write_text(json.dumps({"sentences": [{"caption": "x"}]}))
    with pytest.raises(UserError, match=r"data\.json: sentence 0 has no video_id and caption"):
        msrvtt.open_splits(settings)
    for wrong, message in (
        ("{}", "expected a JSON object with sentences"),
        ('{"sentences": 3}', "expected a JSON object with sentences"),
        ("[]", "expected a JSON object, found list"),
        ("{", "is not valid JSON"),
    ):
        settings.captions.write_text(wrong)
        with pytest.raises(UserError, match=rf"data\.json:? {message}"):
            msrvtt.open_splits(settings)
    settings.test_list.write_text("video_id,sentence\nvideo1,too,many\n")
    with pytest.raises(UserError, match=r"test\.csv:2: 3 values under 2 columns"):
        msrvtt.test_clips(settings.test_list)
    settings.test_list.write_text("video_id,sentence\nvideo1," + "x" * 200_000 + "\n")
    with pytest.raises(UserError, match=r"test\.csv:2: field larger than field limit"):
        msrvtt.test_clips(settings.test_list)


def test_repeated_test_videos_get_numbers(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", ("video_id", "sentence"), [("v1", "one"), ("v1", "two")])
    assert [clip.key for clip in msrvtt.test_clips(path)] == ["v_v1", "v1_v1"]
