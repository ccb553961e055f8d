"""Sketch sets by the lists of SAKE and ZSE-SBIR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from swamp_dist.config import SketchListsSource
from swamp_dist.errors import UserError
from swamp_dist.records import RawSplit
from swamp_dist.sources import sketch_lists
from tests.sources.sketch_files import write_lists

Open = Callable[..., Mapping[str, RawSplit]]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    write_lists(tmp_path, tmp_path / "lists", ["ant", "wine bottle", "cow"], ["hot-air balloon", "bat"])

    def opened(**options: Any) -> Mapping[str, RawSplit]:
        return sketch_lists.open_splits(SketchListsSource(root=tmp_path, lists=tmp_path / "lists", **options))

    return opened


def edit(tmp_path: Path, file: str, old: str, new: str) -> None:
    path = tmp_path / "lists" / file
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def test_numbers_that_start_again_are_joined_by_name(opened: Open) -> None:
    splits = opened(validation_classes=1)
    assert [len(split.keys) for split in splits.values()] == [4, 6, 2, 3, 4, 6]
    assert splits["test"].class_names == ("ant", "bat", "cow", "hot_air_balloon", "wine_bottle")
    first = splits["test"].read(0)
    assert (first.label, first.text["image"]) == (1, "sketch_ready/zero bat/s0.png")
    assert {splits["test"].read(i).label for i in range(4)} == {1, 3}
    assert "validation" not in opened(validation_classes=0)


def test_folders_that_are_called_otherwise_here(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "sketch_ready").rename(tmp_path / "sketch")
    (tmp_path / "photo_ready").rename(tmp_path / "photo")
    splits = opened(replace={"_ready": ""})
    assert splits["test_photos"].read(0).text["image"] == "photo/zero bat/p0.jpg"


def test_a_class_in_both_lists_is_refused(opened: Open, tmp_path: Path) -> None:
    edit(tmp_path, "cname_cid_zero.txt", "bat 1", "Wine-bottle 1")
    with pytest.raises(UserError, match=r"both seen and unseen: wine_bottle \(train and test\)"):
        opened()


def test_lists_of_another_split_than_the_recipe_says_are_refused(opened: Open) -> None:
    with pytest.raises(UserError, match=r"not those of sketchy25: 2 others .*, 25 missing"):
        opened(split="sketchy25")


def test_damaged_lists_are_named_with_their_line(opened: Open, tmp_path: Path) -> None:
    photos = "all_photo_filelist_zero.txt"
    edit(tmp_path, photos, "zero bat/p1.jpg 1", "zero bat/p1.jpg 7")
    with pytest.raises(UserError, match=r"filelist_zero.txt, line 5: number 7 has no name"):
        opened()
    edit(tmp_path, photos, "zero bat/p1.jpg 7", "zero bat/p1.jpg x")
    with pytest.raises(UserError, match=r"line 5: found 'photo_ready/zero bat/p1.jpg x'; expected `path"):
        opened()
    edit(tmp_path, photos, "photo_ready/zero bat/p1.jpg x", "../bat/p1.jpg 1")
    with pytest.raises(UserError, match=r"line 5: expected the path of an image below source.root"):
        opened()
    (tmp_path / "lists" / photos).write_text("")
    with pytest.raises(UserError, match="it is empty"):
        opened()
    (tmp_path / "lists" / photos).unlink()
    with pytest.raises(UserError, match=r"all_photo_filelist_zero.txt: cannot be read"):
        opened()


def test_a_class_without_photos_is_refused_or_left_out(opened: Open, tmp_path: Path) -> None:
    edit(tmp_path, "cname_cid.txt", "cow 2", "cow 2\ndog 3")
    with pytest.raises(UserError, match=r"1 of 6 classes are incomplete: dog \(no sketches\)"):
        opened()
    assert "dog" not in opened(incomplete="drop")["train"].class_names


def test_an_unseen_class_without_photos_is_never_left_out(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketch_lists, "UNSEEN", {"sketchy25": ("bat", "hot_air_balloon")})
    photos = tmp_path / "lists" / "all_photo_filelist_zero.txt"
    photos.write_text("".join(line for line in photos.open() if "bat" not in line))
    for split in ("sketchy25", None):
        with pytest.raises(UserError, match=r"1 of 5 classes are incomplete: bat \(no photos\)") as raised:
            opened(split=split, incomplete="drop")
        assert "unseen classes are never left out (bat)" in str(raised.value)


def test_an_image_of_two_classes_or_two_lists_is_refused(opened: Open, tmp_path: Path) -> None:
    seen = "all_photo_filelist_train.txt"
    edit(tmp_path, seen, "photo_ready/train ant/p1.jpg 0", "photo_ready/train cow/p1.jpg 0")
    with pytest.raises(
        UserError,
        match=r"lists: images are listed twice, 1 in all: photo_ready/train cow/p1.jpg under seen class "
        r"ant \(all_photo_filelist_train.txt\) and seen class cow \(all_photo_filelist_train.txt\)\.",
    ):
        opened()
    edit(tmp_path, seen, "photo_ready/train cow/p1.jpg 0", "./photo_ready/zero bat/p1.jpg 0")
    with pytest.raises(UserError, match=r"bat/p1.jpg under seen class ant \(.*\) and unseen class bat"):
        opened()
    edit(tmp_path, seen, "./photo_ready/zero bat/p1.jpg 0", "sketch_ready/train ant/s1.png 0")
    with pytest.raises(UserError, match=r"seen class ant \(sketch_tx.*\) and seen class ant \(all_"):
        opened()
    edit(tmp_path, seen, "sketch_ready/train ant/s1.png 0", "photo_ready/train ant/p0.jpg 0")
    assert opened(validation_classes=0)["train_photos"].keys[1] == "000_v1_p0"  # a photo twice in its class
