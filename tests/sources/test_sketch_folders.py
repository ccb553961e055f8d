"""Sketchy, TU-Berlin and QuickDraw in folders of the published layout, small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from swamp_dist.config import SourceSettings
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.prepare.raw_data import open_raw_data
from swamp_dist.sources.class_splits import UNSEEN
from tests.sources.sketch_files import picture, write_folders

LAYOUTS = {
    "sketchy": ("Sketchy/sketch/tx_000000000000", "EXTEND_image_sketchy", "sketchy21"),
    "tuberlin": ("sketches", "images", "sake30"),
    "quickdraw": ("QuickDraw_sketches_final", "QuickDraw_images_final", "quickdraw30"),
}
SPLITS = ["train", "train_photos", "validation", "validation_photos", "test", "test_photos"]


def settings(kind: str, folder: Path, **options: Any) -> SourceSettings:
    found: SourceSettings = TypeAdapter(SourceSettings).validate_python(
        {"kind": kind, "folder": folder, **options}
    )
    return found


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """Four classes of Sketchy and a list that leaves `bat` unseen."""
    write_folders(tmp_path, ["ant", "Hot-air balloon", "cow", "bat"], *LAYOUTS["sketchy"][:2], (2, 3))
    (tmp_path / "unseen.txt").write_text("bat\n")
    return tmp_path


@pytest.mark.parametrize("kind", LAYOUTS)
def test_published_folders_and_their_unseen_classes(kind: str, tmp_path: Path) -> None:
    sketches, photos, split = LAYOUTS[kind]
    seen = [f"seen {i}" for i in range(24)]
    spelled = [name.replace("_", "-") for name in UNSEEN[split]]
    write_folders(tmp_path, [*seen, *spelled], sketches, photos, (1, 1))
    (tmp_path / sketches / "class_labels.txt").write_text("class_labels.txt\n")
    splits = open_raw_data(settings(kind, tmp_path, split=split)).splits
    assert list(splits) == SPLITS
    validation = 20 if kind == "tuberlin" else 3
    counts = [len(split.keys) for split in splits.values()]
    assert counts == [24 - validation] * 2 + [validation] * 2 + [len(spelled)] * 2
    names = splits["test"].class_names
    assert names == tuple(sorted([*UNSEEN[split], *(name.replace(" ", "_") for name in seen)]))
    shown = {splits["test"].read(i).text["label"] for i in range(len(spelled))}
    assert shown == set(UNSEEN[split])


def test_an_entry_is_one_image_with_its_class(four: Path) -> None:
    splits = open_raw_data(
        settings("sketchy", four, split_file=four / "unseen.txt", validation_classes=1)
    ).splits
    assert [len(split.keys) for split in splits.values()] == [4, 6, 2, 3, 2, 3]
    sample = splits["test_photos"].read(1)
    path = "EXTEND_image_sketchy/bat/p1.jpg"
    assert sample.key == "001_v_p1"
    assert sample.fields == {"image": (four / path).read_bytes()}
    assert sample.text == {"image": path, "label": "bat"}
    assert splits["train"].class_names[sample.label] == "bat"
    assert splits["test"].class_names == ("ant", "bat", "cow", "hot_air_balloon")
    for name in ("train", "validation", "test"):
        a, b = splits[name], splits[f"{name}_photos"]
        classes = [{each.read(i).label for i in range(len(each.keys))} for each in (a, b)]
        assert classes[0] == classes[1]


def test_originals_join_the_gallery_on_demand(four: Path) -> None:
    for name in ("ant", "Hot-air balloon", "cow", "bat"):
        path = four / "Sketchy/photo/tx_000000000000" / name
        path.mkdir(parents=True)
        (path / "p0.jpg").write_bytes(picture(7, "JPEG"))  # the extended folder has a file of this name
    options = {"split_file": four / "unseen.txt", "validation_classes": 0}
    splits = open_raw_data(settings("sketchy", four, originals=True, **options)).splits
    assert list(splits) == ["train", "train_photos", "test", "test_photos"]
    assert splits["test_photos"].keys == ["001_v_p0", "001_v_p1", "001_v_p2", "001_v1_p0"]
    assert splits["test_photos"].read(3).fields == {"image": picture(7, "JPEG")}
    assert len(open_raw_data(settings("sketchy", four, **options)).splits["test_photos"].keys) == 3


def test_what_is_no_class_or_no_image_is_passed_over(four: Path, caplog: pytest.LogCaptureFixture) -> None:
    sketches = four / LAYOUTS["sketchy"][0]
    (sketches / ".cache").mkdir()
    (sketches / "bat" / "Thumbs.db").write_text("x")
    splits = open_raw_data(settings("sketchy", four, split_file=four / "unseen.txt")).splits
    assert len(splits["test"].keys) == 2
    assert "passed over 1 files that are no JPEG, PNG or WebP" in caplog.text


def test_a_class_without_photos_is_refused_or_left_out(four: Path) -> None:
    for file in (four / LAYOUTS["sketchy"][1] / "cow").iterdir():
        file.unlink()
    options = {"split_file": four / "unseen.txt", "validation_classes": 0}
    with pytest.raises(UserError, match=r"1 of 4 classes are incomplete: cow \(no photos\)"):
        open_raw_data(settings("sketchy", four, **options))
    splits = open_raw_data(settings("sketchy", four, incomplete="drop", **options)).splits
    assert splits["train"].class_names == ("ant", "bat", "hot_air_balloon")
    (four / "unseen.txt").write_text("cow\n")
    for incomplete in ("refuse", "drop"):
        with pytest.raises(UserError, match=r"cow \(no photos\)\.\nFix: complete them; unseen") as raised:
            open_raw_data(settings("sketchy", four, incomplete=incomplete, **options))
        assert "drop" not in str(raised.value)


def test_folders_that_are_gone_or_say_one_class_twice_are_refused(four: Path) -> None:
    options = {"split_file": four / "unseen.txt"}
    with pytest.raises(UserError, match=r"source.photos: no folder .*/elsewhere"):
        open_raw_data(settings("sketchy", four, photos="elsewhere", **options))
    with pytest.raises(UserError, match=r"source.sketches: .*/bat has no folder in it"):
        open_raw_data(settings("sketchy", four, sketches=f"{LAYOUTS['sketchy'][0]}/bat", **options))
    (four / LAYOUTS["sketchy"][0] / "hot_air balloon").mkdir()
    with pytest.raises(
        UserError, match="two folders of class hot_air_balloon: Hot-air balloon, hot_air balloon"
    ):
        open_raw_data(settings("sketchy", four, **options))


def test_a_list_that_is_gone_and_a_set_without_unseen_classes_are_refused(four: Path) -> None:
    with pytest.raises(UserError, match=r"gone.txt: cannot be read as a list of classes"):
        open_raw_data(settings("sketchy", four, split_file=four / "gone.txt"))
    with pytest.raises(UserError, match=r"do not have: cabin, dolphin"):
        open_raw_data(settings("sketchy", four, split="sketchy21"))
    for options in ({}, {"split": "sketchy21", "split_file": "x.txt"}):
        with pytest.raises(ValidationError, match="give either split"):
            settings("sketchy", four, **options)


def test_an_image_that_is_gone_is_a_bad_entry(four: Path) -> None:
    splits = open_raw_data(settings("sketchy", four, split_file=four / "unseen.txt")).splits
    (four / LAYOUTS["sketchy"][0] / "bat" / "s1.png").unlink()
    assert splits["test"].read(0).label == 1
    with pytest.raises(BadEntry, match="no such file"):
        splits["test"].read(1)


def test_one_folder_is_not_sketches_and_photos(four: Path) -> None:
    sketches, photos, _ = LAYOUTS["sketchy"]
    options = {"split_file": four / "unseen.txt"}
    (four / "linked").symlink_to(four / sketches)
    for same in (sketches, f"./{sketches}/", "linked"):
        with pytest.raises(UserError, match=r"named as a folder of photos, and is that of the sketches too"):
            open_raw_data(settings("sketchy", four, photos=same, **options))
    with pytest.raises(UserError, match=r"EXTEND_image_sketchy is named .* that of other photos too\.\nFix:"):
        open_raw_data(settings("sketchy", four, originals=True, original_photos=photos, **options))
