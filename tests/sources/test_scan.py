"""Regions and captions in SCAN's layout: which rows and lines are of one image, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swamp_dist.config import ScanSource, ShardSettings
from swamp_dist.data.reader import open_reader
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.prepare.build import build_shards, read_coverage
from swamp_dist.records import Sample
from swamp_dist.sources.scan import open_splits, read_lines
from tests.sources.image_text_files import caption, write_scan


def source(folder: Path, *splits: str, **changes: Any) -> ScanSource:
    return ScanSource.model_validate(
        {"folder": folder, "splits": splits or ("train",), "width": 8, **changes}
    )


def samples(settings: ScanSource, split: str = "train") -> list[Sample]:
    opened = open_splits(settings)[split]
    return [opened.read(i) for i in range(len(opened.keys))]


@pytest.mark.parametrize("repeat", [False, True], ids=["a row per image", "a row per caption"])
def test_an_image_is_an_entry_with_its_regions_and_five_captions(tmp_path: Path, repeat: bool) -> None:
    features = write_scan(tmp_path, "train", 4, repeat=repeat)
    found = samples(source(tmp_path))
    assert [sample.key for sample in found] == [f"{i:06d}_v_{1000 + i}" for i in range(4)]
    for sample, regions in zip(found, features, strict=True):
        np.testing.assert_array_equal(np.asarray(sample.fields["regions"]), regions)
    texts = [tuple(caption(i, n) for n in range(5)) for i in range(4)]
    assert [sample.captions for sample in found] == texts
    assert found[3].text == {"id": "1003"}
    counted = open_splits(source(tmp_path))["train"].captions
    assert counted is not None
    assert list(counted()) == texts


def test_the_last_line_counts_with_and_without_its_end(tmp_path: Path) -> None:
    for content in ("a\nb", "a\nb\n"):
        (tmp_path / "caps.txt").write_text(content)
        assert read_lines(tmp_path / "caps.txt") == ["a", "b"]
    (tmp_path / "caps.txt").write_text("a\u2028b\x85c\n\nd\n", "utf-8")  # one caption, an empty one, one more
    assert read_lines(tmp_path / "caps.txt") == ["a\u2028b\x85c", "", "d"]
    (tmp_path / "caps.txt").write_bytes(b"a\xff")
    with pytest.raises(UserError, match="no UTF-8 at byte 1"):
        read_lines(tmp_path / "caps.txt")


def test_dev_is_cut_to_the_published_images(tmp_path: Path) -> None:
    write_scan(tmp_path, "dev", 6, repeat=True)
    assert len(open_splits(source(tmp_path, "dev", dev_images=4))["dev"].keys) == 4
    assert len(open_splits(source(tmp_path, "dev", dev_images=None))["dev"].keys) == 6
    write_scan(tmp_path, "train", 6)
    assert len(open_splits(source(tmp_path, "train", dev_images=4))["train"].keys) == 6


def test_features_are_stored_as_float16_where_that_is_asked(tmp_path: Path) -> None:
    features = write_scan(tmp_path, "train", 2)
    found = samples(source(tmp_path, dtype="float16"))[1].fields["regions"]
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float16
    assert np.array_equal(found, features[1].astype(np.float16))


def test_ids_are_those_of_images_or_of_captions_or_numbers(tmp_path: Path) -> None:
    write_scan(tmp_path, "train", 2)
    ids = tmp_path / "train_ids.txt"
    ids.write_text("\n".join(str(i // 5) + ".jpg" for i in range(10)))
    assert open_splits(source(tmp_path))["train"].keys == ["000000_x_0-pjpg", "000001_x_1-pjpg"]
    ids.write_text("1\n2\n3\n")
    with pytest.raises(UserError, match="3 ids, for 2 images with 5 captions"):
        open_splits(source(tmp_path))
    ids.unlink()
    assert open_splits(source(tmp_path))["train"].keys == ["000000_v_0", "000001_v_1"]


def test_rows_that_match_neither_count_are_refused(tmp_path: Path) -> None:
    write_scan(tmp_path, "train", 4)
    np.save(tmp_path / "train_ims.npy", np.zeros((7, 3, 8), np.float32))
    with pytest.raises(UserError, match="7 rows, which match neither the 4 images nor the 20 captions"):
        open_splits(source(tmp_path))


def test_captions_that_are_no_multiple_of_five_are_refused(tmp_path: Path) -> None:
    write_scan(tmp_path, "train", 4)
    with (tmp_path / "train_caps.txt").open("a") as file:
        file.write("\none more")
    with pytest.raises(UserError, match="21 captions, no multiple of 5"):
        open_splits(source(tmp_path))


@pytest.mark.parametrize(
    ("array", "finding"),
    [
        (np.zeros((4, 3, 9), np.float32), r"expected \(images, regions, 8\), found \(4, 3, 9\)"),
        (np.zeros((4, 8), np.float32), "kind: pairs takes"),
        (np.zeros((4, 0, 8), np.float32), r"found \(4, 0, 8\)"),
        (np.zeros((4, 3, 8), np.int64), "expected float16 or float32, found int64"),
        (np.asfortranarray(np.zeros((4, 3, 8), np.float32)), "Fortran"),
        (np.array([None] * 4), "not a readable array"),
    ],
)
def test_other_features_are_refused(tmp_path: Path, array: np.ndarray, finding: str) -> None:
    write_scan(tmp_path, "train", 4)
    np.save(tmp_path / "train_ims.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=finding):
        open_splits(source(tmp_path))


def test_a_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    write_scan(tmp_path, "train", 4)
    file = tmp_path / "train_ims.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="bytes of data for float32"):
        open_splits(source(tmp_path))


def test_absent_files_are_named_and_testall_is_explained(tmp_path: Path) -> None:
    write_scan(tmp_path, "train", 4)
    with pytest.raises(UserError, match=r"dev_caps.txt: no such file") as raised:
        open_splits(source(tmp_path, "train", "dev"))
    assert "testall" not in str(raised.value)
    with pytest.raises(UserError, match=r"testall_caps.txt: no such file[^$]*folds of 1,000 need"):
        open_splits(source(tmp_path, "train", "testall"))


def test_rows_of_one_image_that_differ_are_a_bad_entry(tmp_path: Path) -> None:
    features = np.repeat(write_scan(tmp_path, "dev", 3), 5, axis=0)
    features[9, 0, 0] += 1
    np.save(tmp_path / "dev_ims.npy", features)
    opened = open_splits(source(tmp_path, "dev"))["dev"]
    opened.read(0)
    with pytest.raises(BadEntry, match="rows 5 and 9 should be of one image") as raised:
        opened.read(1)
    assert raised.value.kind == "rows of one image differ"


def test_captions_without_words_follow_the_policy(tmp_path: Path) -> None:
    write_scan(tmp_path, "train", 2)
    lines = [caption(0, n) for n in range(5)] + ["", " . ", "", "", ""]
    (tmp_path / "train_caps.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(BadEntry, match=r"train_caps.txt:6: none of its captions has a word"):
        samples(source(tmp_path))
    assert samples(source(tmp_path, wordless="keep"))[1].captions == ("", ".", "", "", "")


def test_a_set_is_built_with_ragged_regions_and_float16_overflow_is_counted(tmp_path: Path) -> None:
    features = write_scan(tmp_path / "raw", "train", 6)
    features[2, 1, 4] = 1e6
    np.save(tmp_path / "raw" / "train_ims.npy", features)
    recipe = ShardSettings(
        name="toy", source=source(tmp_path / "raw", dtype="float16"), entries_per_shard=4, on_missing="skip",
        max_missing_share=0.5,
    )  # fmt: skip
    manifest = build_shards(recipe, tmp_path / "toy")
    assert str(manifest.field("regions")) == "float16 (elements, 8)"
    assert str(manifest.field("text")) == "text (items)"
    coverage, _ = read_coverage(tmp_path / "toy")
    assert coverage is not None
    assert coverage.splits["train"].skipped["values not finite"].first == ("000002_v_1002",)
    (entry,) = open_reader(manifest, "train", ("regions", "text")).read([0])
    image = int(entry.text["id"]) - 1000
    assert np.array_equal(entry.arrays["regions"], features[image].astype(np.float16))
    assert entry.arrays["text"].tolist() == [caption(image, n) for n in range(5)]


def test_testall_is_built_whole_or_not_at_all(tmp_path: Path) -> None:
    features = write_scan(tmp_path / "raw", "testall", 4)
    features[1] = np.nan
    np.save(tmp_path / "raw" / "testall_ims.npy", features)
    settings = source(tmp_path / "raw", "testall")
    recipe = ShardSettings(name="toy", source=settings, on_missing="skip", max_missing_share=1)
    with pytest.raises(UserError, match=r"v_1001[^$]*on_missing=skip does not reach it"):
        build_shards(recipe, tmp_path / "toy")


def test_edited_captions_are_another_set(tmp_path: Path) -> None:
    write_scan(tmp_path / "raw", "train", 4)
    recipe = ShardSettings(name="toy", source=source(tmp_path / "raw"))
    build_shards(recipe, tmp_path / "toy")
    build_shards(recipe, tmp_path / "toy")
    path = tmp_path / "raw" / "train_caps.txt"
    path.write_text(path.read_text().replace("man", "cat"))
    with pytest.raises(UserError, match="another recipe"):
        build_shards(recipe, tmp_path / "toy")
