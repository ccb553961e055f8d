"""The simulated corpus: layouts as plain readers see them, seeds, and errors."""

from __future__ import annotations

import csv
import hashlib
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from swamp_dist.errors import UserError
from swamp_dist.sources import simulated_files
from swamp_dist.sources.entry_keys import identity_of
from swamp_dist.sources.simulated_captions import content, make_corpus
from swamp_dist.sources.simulated_features import word_vector
from swamp_dist.sources.simulated_video_text import ensure_raw_files, item_fields, open_splits
from tests.sources.simulated_sets import small_settings

PARTS = ("howto100m", "youcook2", "msrvtt", "lsmdc")


def _make(raw_dir: Path, **changes: object) -> Path:
    for part in PARTS:
        ensure_raw_files(small_settings(raw_dir, part, **changes))
    return raw_dir


def _hashes(raw_dir: Path) -> dict[str, str]:
    files = (p for p in raw_dir.rglob("*") if p.is_file())
    return {str(p.relative_to(raw_dir)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _changed(one: Path, other: Path) -> set[str]:
    a, b = _hashes(one), _hashes(other)
    assert a.keys() == b.keys()
    return {name for name in a if a[name] != b[name] and not name.endswith("simulated.json")}


def _lists(folder: Path) -> list[dict[str, object]]:
    return [
        row
        for name in ("youcook_train.pkl", "youcook_val.pkl")
        for row in pickle.loads((folder / "youcook2" / name).read_bytes())
    ]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make(tmp_path_factory.mktemp("raw"))


def test_the_same_settings_give_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    assert len(_hashes(raw)) == 5 + 1 + 2 + 2 * 5 + 2 + 5 + 4  # records, vectors, and the files of the sets
    assert _changed(raw, _make(tmp_path)) == set()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_another_map_changes_features_and_nothing_else(raw: Path, tmp_path: Path) -> None:
    other = _make(tmp_path, map_seed=1)
    changed = _changed(raw, other)
    assert {Path(name).suffix for name in changed} == {".npy", ".pth", ".pkl"}
    assert len(changed) == 2 * 5 + 4 + 2
    for one, two in zip(_lists(raw), _lists(other), strict=True):
        assert (one["id"], one["caption"]) == (two["id"], two["caption"])
        assert not np.array_equal(one["2d"], two["2d"])


def test_the_control_map_is_of_howto100m_alone(raw: Path, tmp_path: Path) -> None:
    changed = _changed(raw, _make(tmp_path, howto100m_map_seed=1))
    assert len(changed) == 2 * 5
    assert all(name.startswith("howto100m/features_") for name in changed)


def test_the_seed_changes_what_is_said(raw: Path, tmp_path: Path) -> None:
    other = _make(tmp_path, seed=1)
    assert {"howto100m/caption.json", "msrvtt/MSRVTT_data.json", "words/vectors.bin"} <= _changed(raw, other)


def test_howto100m_has_the_released_layout(raw: Path) -> None:
    folder = raw / "howto100m"
    rows = list(csv.reader((folder / "HowTo100M_v1.csv").open()))
    assert rows[0] == ["video_id", "category_1", "category_2", "rank", "task_id", "path"]
    captions = json.loads((folder / "caption.json").read_text())
    durations = {f"sim{v.number:08d}": v.duration for v in make_corpus(small_settings(raw)).videos}
    assert [row[0] for row in rows[1:]] == list(captions) == list(durations)
    for name, *_, path in rows[1:]:
        assert path == f" Food/{name}.npy"  # pandas keeps the blank, as of the published example
        two, three = (np.load(folder / f"features_{kind}" / path.strip()) for kind in ("2d", "3d"))
        seconds = durations[name]
        assert (two.shape, three.shape) == ((int(seconds), 32), (int(np.ceil(24 * seconds / 16)), 32))
        assert two.dtype == three.dtype == np.float16
        for rows_of in (two, three):
            assert np.linalg.norm(rows_of.astype(np.float64), axis=1) == pytest.approx(1, abs=2e-3)
        said = captions[name]
        assert len(said["start"]) == len(said["end"]) == len(said["text"]) >= 20 / 5.5
        assert said["start"] == sorted(said["start"])
        assert all(0 <= s < e <= seconds for s, e in zip(said["start"], said["end"], strict=True))
        assert all(text and content(text) == text.split() for text in said["text"])  # no stop words


def test_youcook2_is_two_pickled_lists(raw: Path) -> None:
    rows = _lists(raw)
    assert len(rows) == 50
    assert len({row["id"] for row in rows}) == 50
    for row in rows:
        assert set(row) == {"2d", "3d", "caption", "id"}
        assert {type(row["caption"]), type(row["id"])} == {str}
        assert [(row[k].shape, row[k].dtype) for k in ("2d", "3d")] == [((32,), np.float16)] * 2
        assert np.linalg.norm(row["2d"].astype(np.float64)) > 1.01  # pooled maxima, not normalised


def test_msrvtt_is_tables_captions_and_tensors(raw: Path) -> None:
    folder = raw / "msrvtt"
    train = [row["video_id"] for row in csv.DictReader((folder / "MSRVTT_train.csv").open())]
    test = list(csv.DictReader((folder / "MSRVTT_JSFUSION_test.csv").open()))
    sentences = json.loads((folder / "MSRVTT_data.json").read_text())["sentences"]
    assert [s["video_id"] for s in sentences] == [name for name in train for _ in range(3)]
    assert len({s["caption"] for s in sentences if s["video_id"] == train[0]}) > 1
    assert list(test[0]) == ["key", "vid_key", "video_id", "sentence"]
    assert not set(train) & {row["video_id"] for row in test}
    features = torch.load(folder / "MSRVTT_train.pth", weights_only=True)
    tested = torch.load(folder / "MSRVTT_JSFUSION_test.pth", weights_only=True)
    assert (len(train), len(test)) == (12, 6)
    for kind in ("2d", "3d"):
        assert list(features[kind]) == train
        assert list(tested[kind]) == [row["video_id"] for row in test]
        assert all(t.shape == (32,) and t.dtype == torch.float16 for t in features[kind].values())


def test_lsmdc_is_a_table_with_stray_quotes_that_default_readers_lose_rows_of(raw: Path) -> None:
    file = raw / "lsmdc" / "LSMDC16_annos_training.csv"
    rows = [line.split("\t") for line in file.read_text().splitlines()]
    assert {len(row) for row in rows} == {6}
    assert any('"' in row[5] for row in rows)
    assert len(rows) > len({row[0] for row in rows}) == 90  # a clip may stand twice
    assert set(torch.load(raw / "lsmdc" / "LSMDC_train.pth", weights_only=True)["3d"]) == {r[0] for r in rows}
    assert len(list(csv.reader(file.open(), delimiter="\t"))) < len(rows)
    held_out = (raw / "lsmdc" / "LSMDC16_challenge_1000_publictect.csv").read_text().splitlines()
    assert len(held_out) == 6
    assert not {row[0] for row in rows} & {line.split("\t")[0] for line in held_out}


def test_word2vec_file_has_header_words_and_little_endian_floats(raw: Path) -> None:
    data = (raw / "words" / "vectors.bin").read_bytes()
    header, data = data.split(b"\n", 1)
    assert header == b"900 20"
    vectors = {}
    while data:
        word, data = data.split(b" ", 1)
        vectors[word.decode()] = np.frombuffer(data[:80], "<f4")
        assert data[80:81] == b"\n"
        data = data[81:]
    assert len(vectors) == 900
    assert all(np.array_equal(v, word_vector(word, small_settings(raw))) for word, v in vectors.items())
    said = {word for row in _lists(raw) for word in str(row["caption"]).split()}
    assert 0 < len(said - vectors.keys()) < 0.1 * len(said)  # some are out of vocabulary


def test_glove_text_holds_the_same_words(raw: Path, tmp_path: Path) -> None:
    settings = small_settings(tmp_path, vectors_format="glove")
    ensure_raw_files(settings)
    lines = (tmp_path / "words" / "vectors.txt").read_text().splitlines()
    rows = {line.split(" ")[0]: np.array(line.split(" ")[1:], dtype=np.float64) for line in lines}
    assert len(rows) == 900
    for word, row in rows.items():
        assert row == pytest.approx(word_vector(word, settings), abs=1e-5)


def test_a_finished_part_is_not_written_again(raw: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in raw.rglob("*")}
    _make(raw)
    assert {p: p.stat().st_mtime_ns for p in raw.rglob("*")} == before


def test_a_part_that_fails_half_way_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(simulated_files, "_pth", _full_disk)
        with pytest.raises(OSError, match="no space"):
            ensure_raw_files(small_settings(tmp_path, "lsmdc"))
    assert {p.name for p in tmp_path.iterdir()} == {"words"}
    ensure_raw_files(small_settings(tmp_path, "lsmdc"))
    assert {p.name for p in tmp_path.iterdir()} == {"words", "lsmdc"}


def _full_disk(*_: object) -> None:
    raise OSError("no space left on device")


def test_two_processes_that_write_the_same_part_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(tmp_path, "lsmdc")
    real = simulated_files._pth
    started = []

    def meanwhile(*arguments: object) -> None:
        if not started:
            started.append(True)
            ensure_raw_files(settings)  # another process finishes first
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(simulated_files, "_pth", meanwhile)
    ensure_raw_files(settings)
    assert {p.name for p in tmp_path.iterdir()} == {"words", "lsmdc"}


def test_files_of_other_settings_are_refused_with_what_differs(raw: Path) -> None:
    with pytest.raises(UserError, match=r"source\.noise: found 1\.25, wanted 2\.0.*another source\.raw_dir"):
        ensure_raw_files(small_settings(raw, noise=2.0))


def test_a_folder_of_someone_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "youcook2").mkdir()
    with pytest.raises(UserError, match="was not made by this source"):
        ensure_raw_files(small_settings(tmp_path))
    assert not any((tmp_path / "youcook2").iterdir())


def test_the_readers_of_the_real_sets_take_every_entry(raw: Path) -> None:
    counts, shapes = {}, {}
    for part in PARTS:
        settings = small_settings(raw, part)
        splits = open_splits(settings)
        counts[part] = {name: len(split.keys) for name, split in splits.items()}
        for split in splits.values():
            samples = [split.read(i) for i in range(len(split.keys))]  # BadEntry where a layout is off
            assert [s.captions for s in samples] == [tuple(c) for c in split.captions()]
            assert all(s.captions for s in samples)
            shapes[part] = {name: (v.shape[-1], str(v.dtype)) for name, v in samples[0].fields.items()}
        items = {"times", "features_2d", "features_3d"} if part == "howto100m" else set()
        assert item_fields(settings) == items
    assert {part: sum(c.values()) - c.get("test", 0) for part, c in counts.items()} == {
        "howto100m": 5, "youcook2": 40, "msrvtt": 12, "lsmdc": len(_film_rows(raw)),
    }  # fmt: skip
    assert [counts[part]["test"] for part in PARTS[1:]] == [10, 6, 6]
    assert all(c["validation"] > 0 for part, c in counts.items() if part in ("youcook2", "lsmdc"))
    assert shapes["lsmdc"] == shapes["msrvtt"] == shapes["youcook2"] == {"video": (64, "float16")}
    assert shapes["howto100m"]["features_3d"] == (32, "float16")


def test_validation_of_pooled_clips_shares_no_video_with_training(raw: Path) -> None:
    for part, video_of in (("youcook2", r"(.+)_\d+"), ("lsmdc", r"(\d+)_")):
        splits = open_splits(small_settings(raw, part))
        found = {
            name: {re.match(video_of, identity_of(key)[0]).group(1) for key in splits[name].keys}  # type: ignore[union-attr]
            for name in ("train", "validation")
        }
        assert all(found.values()), part
        assert not found["train"] & found["validation"], part


def _film_rows(raw: Path) -> list[str]:
    return (raw / "lsmdc" / "LSMDC16_annos_training.csv").read_text().splitlines()
