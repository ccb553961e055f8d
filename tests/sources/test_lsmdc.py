"""LSMDC: an entry a row, quotes are letters, repeated clips get numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from swamp_dist.data.sample_checks import checked_samples
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.sources import lsmdc
from swamp_dist.sources.entry_keys import identity_of
from tests.sources import raw_layouts
from tests.sources.raw_layouts import CLIPS, write_tables


def test_every_row_is_an_entry_and_quotes_are_letters(tmp_path: Path) -> None:
    splits = lsmdc.open_splits(raw_layouts.lsmdc(tmp_path))
    train = splits["train"]
    assert len(train.keys) == len(CLIPS)
    assert [identity_of(key) for key in train.keys] == [
        (clip, number) for (clip, _), number in zip(CLIPS, (None, 1, None, None), strict=True)
    ]
    samples = [train.read(i) for i in range(4)]
    assert [s.captions for s in samples] == [(sentence,) for _, sentence in CLIPS]
    np.testing.assert_array_equal(samples[0].fields["video"], samples[1].fields["video"])
    assert samples[2].fields["video"][0] == 1
    assert len(list(checked_samples(samples, "train", {}, lsmdc.item_fields(raw_layouts.LsmdcSource())))) == 4
    assert splits["test"].read(0).captions == ("He waits.",)


def test_windows_line_ends_and_blank_lines_change_nothing(tmp_path: Path) -> None:
    settings = raw_layouts.lsmdc(tmp_path)
    before = lsmdc.read_clips(settings.train_list)
    text = settings.train_list.read_text().replace("\n", "\r\n") + "\r\n"
    settings.train_list.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert lsmdc.read_clips(settings.train_list) == before


def test_rows_of_another_form_are_refused_by_line(tmp_path: Path) -> None:
    settings = raw_layouts.lsmdc(tmp_path)
    with settings.train_list.open("a") as file:
        file.write("0004_x,0,1,0,1,commas\n")
    with pytest.raises(UserError, match=r"train\.tsv:5: 1 values separated by tabs, expected 6"):
        lsmdc.open_splits(settings)


def test_clips_without_features_or_words_are_named(tmp_path: Path) -> None:
    settings = raw_layouts.lsmdc(tmp_path)
    with settings.train_list.open("a") as file:
        file.write("0009_other\t0\t1\t0\t1\tHe runs.\n0003_Third_00.02.00.000-00.02.03.000\t0\t1\t0\t1\t\n")
    train = lsmdc.open_splits(settings)["train"]
    for number, kind in ((4, "no 2D features"), (5, "caption without words")):
        with pytest.raises(BadEntry) as caught:
            train.read(number)
        assert caught.value.kind == kind


def test_all_tables_decide_the_type_and_wordless_rows_stay_where_asked_for(tmp_path: Path) -> None:
    settings = raw_layouts.lsmdc(tmp_path, wordless="keep")
    identity = lsmdc.read_clips(settings.test_list)[0].identity
    settings.test_list.write_text(f"{identity}\t0\t1\t0\t1\t\n")
    write_tables(settings.test_features, [identity], torch.float16)
    splits = lsmdc.open_splits(settings)
    assert splits["test"].read(0).captions == ("",)
    found = [splits[name].read(0).fields["video"].dtype.name for name in ("train", "test")]
    assert found == ["float32", "float32"]
    settings.test_list.write_text("\t0\t1\t0\t1\tHe waits.\n")
    with pytest.raises(UserError, match=r"test\.tsv:1: the id is empty"):
        lsmdc.open_splits(settings)


def test_training_on_test_clips_is_refused(tmp_path: Path) -> None:
    settings = raw_layouts.lsmdc(tmp_path)
    with pytest.raises(UserError, match=r"3 clips are in .* for example 0001.*\(.*train\.tsv:1\)"):
        lsmdc.open_splits(settings.model_copy(update={"test_list": settings.train_list}))


def test_validation_has_its_own_list_or_whole_movies(tmp_path: Path) -> None:
    assert lsmdc.movie_of("0001_American_Beauty_00.00.51.926-00.00.54.129") == "0001_American_Beauty"
    assert lsmdc.movie_of("0001_other_form") == "0001_other_form"
    splits = lsmdc.open_splits(raw_layouts.lsmdc(tmp_path, validation_share=0.5))
    sides = [{lsmdc.movie_of(identity_of(k)[0]) for k in splits[n].keys} for n in ("train", "validation")]
    assert len(sides[0]) + len(sides[1]) == 3
    assert not sides[0] & sides[1]
    own = raw_layouts.lsmdc(tmp_path, validation_list=tmp_path / "test.tsv")
    moved = own.model_copy(update={"validation_features": tmp_path / "test.pth"})
    assert lsmdc.open_splits(moved)["validation"].read(0).captions == ("He waits.",)
    with pytest.raises(ValueError, match="either validation_list or validation_share"):
        raw_layouts.lsmdc(tmp_path, validation_list=tmp_path / "test.tsv", validation_share=0.1)
