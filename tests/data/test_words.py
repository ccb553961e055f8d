from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from swamp_dist.data.manifest import Manifest, load_manifest
from swamp_dist.data.verify import verify_shards
from swamp_dist.data.words import WordTable, open_words, write_word_table
from swamp_dist.errors import UserError
from tests.data.shard_sets import build, flip

WORDS = ["pour", "Egg\r", "don't", "na\u00efve", "into"]
VECTORS = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def with_words(folder: Path) -> Manifest:
    """The small set with a word table added to it."""
    manifest = build(folder)
    record = write_word_table(folder, WORDS, VECTORS, "s" * 64, 3, ("a",))
    record = manifest.record.model_copy(update={"words": record})
    record = record.model_copy(update={"hash": record.content_hash()})
    (folder / "manifest.json").write_text(record.model_dump_json(indent=1))
    return load_manifest(folder)


def opened(folder: Path) -> WordTable:
    table = open_words(with_words(folder))
    assert table is not None
    return table


def test_the_table_is_a_plain_npy_file_with_zeros_in_row_0(tmp_path: Path) -> None:
    table = opened(tmp_path / "set")
    plain = np.load(tmp_path / "set" / "words.npy")
    assert plain.dtype == np.float32
    assert np.array_equal(plain, np.concatenate([np.zeros((1, 4), np.float32), VECTORS]))
    assert (tmp_path / "set" / "words.npy").stat().st_size == table.record.bytes
    assert table.words == ("", *WORDS)
    assert not table.rows.flags.writeable
    assert isinstance(table.rows, np.memmap)


def test_a_large_table_is_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swamp_dist.data.words._ROWS_AT_A_TIME", 2)
    assert np.array_equal(opened(tmp_path / "set").rows[1:], VECTORS)


def test_a_batch_carries_its_distinct_words_and_their_vectors(tmp_path: Path) -> None:
    table = opened(tmp_path / "set")
    ids = np.array([[5, 2, 0], [2, 2, 5], [0, 0, 0]], dtype=np.int32)
    words = table.batch(ids)
    assert (words.ids.dtype, words.vectors.dtype) == (torch.int64, torch.float32)
    assert words.vectors.shape == (3, 4)
    assert not words.vectors[0].any()
    assert np.array_equal(words.vectors[words.ids].numpy(), table.rows[ids])
    full = table.batch(np.array([[5, 2]], dtype=np.int32))  # no padding in it
    assert (full.ids.tolist(), full.vectors.tolist()) == ([[2, 1]], table.rows[[0, 2, 5]].tolist())
    empty = table.batch(np.zeros((2, 3), np.int32))
    assert empty.vectors.tolist() == [[0.0] * 4]


@pytest.mark.parametrize("bad", [6, -1])
def test_ids_outside_the_table_are_refused(tmp_path: Path, bad: int) -> None:
    with pytest.raises(UserError, match=r"words\.npy: word ids .* expected 0 to 5"):
        opened(tmp_path / "set").batch(np.array([[0, bad]], dtype=np.int32))


def test_a_pickled_table_maps_the_file_again(tmp_path: Path) -> None:
    table = opened(tmp_path / "set")
    rows = table.rows
    data = pickle.dumps(table)
    assert len(data) < 2000
    assert np.array_equal(pickle.loads(data).rows, rows)


def _own_memory() -> int:
    """kB that this process shares with no file."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def test_reading_the_table_takes_no_memory_of_the_process(tmp_path: Path) -> None:
    vectors = np.ones((100_000, 100), np.float32)
    record = write_word_table(tmp_path, [f"w{i}" for i in range(100_000)], vectors, "", 3)
    table = pickle.loads(pickle.dumps(WordTable(tmp_path, record)))
    del vectors
    before = _own_memory()
    assert table.rows.sum() == 1e7
    assert _own_memory() - before < 4_000


def test_sets_without_words_keep_manifest_and_hash(tmp_path: Path) -> None:
    manifest = build(tmp_path / "set")
    content = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert "words" not in content
    assert open_words(manifest) is None
    assert manifest.hash == manifest.record.model_copy(update={"words": None}).content_hash()


def test_the_hash_covers_the_words(tmp_path: Path) -> None:
    manifest = with_words(tmp_path / "set")
    assert manifest.hash != build(tmp_path / "other").hash
    path = tmp_path / "set" / "manifest.json"
    path.write_text(path.read_text().replace("s" * 64, "t" * 64))
    with pytest.raises(UserError, match="does not match its own hash"):
        load_manifest(tmp_path / "set")


@pytest.mark.parametrize("file", ["words.npy", "words.txt"])
def test_verify_names_a_damaged_table(tmp_path: Path, file: str) -> None:
    with_words(tmp_path / "set")
    assert verify_shards(tmp_path / "set") == []
    flip(tmp_path / "set" / file, -3)
    assert [str(x) for x in verify_shards(tmp_path / "set")] == [f"{file}: sha256 differs from the manifest"]
    (tmp_path / "set" / file).unlink()
    assert [str(x) for x in verify_shards(tmp_path / "set")] == [f"{file}: missing"]


def test_a_short_table_is_refused_at_the_start(tmp_path: Path) -> None:
    with_words(tmp_path / "set")
    path = tmp_path / "set" / "words.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"words\.npy: truncated: 220 bytes, the manifest says 224"):
        load_manifest(tmp_path / "set")


def test_a_table_of_another_shape_is_refused(tmp_path: Path) -> None:
    table = opened(tmp_path / "set")
    np.save(tmp_path / "set" / "words.npy", np.zeros((4, 6), np.float32))  # as many bytes
    with pytest.raises(UserError, match=r"words\.npy: expected float32 \(6, 4\), found float32 \(4, 6\)"):
        _ = table.rows


def test_a_short_list_of_words_is_refused(tmp_path: Path) -> None:
    table = opened(tmp_path / "set")
    (tmp_path / "set" / "words.txt").write_text("\npour\n")
    with pytest.raises(UserError, match=r"words\.txt: expected 6 lines, the first empty; found 2"):
        _ = table.words


def test_a_list_of_other_words_is_refused(tmp_path: Path) -> None:
    table = opened(tmp_path / "set")
    path = tmp_path / "set" / "words.txt"
    path.write_text(path.read_text().replace("pour", "pout"))
    with pytest.raises(UserError, match=r"words\.txt: sha256 differs from the manifest"):
        _ = table.words


@pytest.mark.parametrize(
    ("words", "vectors", "found"),
    [
        (["a", "a"], VECTORS[:2], "a word that stands twice"),
        (["a", ""], VECTORS[:2], "''"),
        (["a", "b\n"], VECTORS[:2], "line breaks"),
        (["a"], VECTORS[:2], "found float32 .2, 4."),
        (["a"], VECTORS[:1].astype(np.float64), "found float64"),
        (["a"], np.full((1, 4), np.nan, np.float32), "the vector of 'a' is not finite"),
        ([], VECTORS[:0], "at least one word"),
    ],
)
def test_what_cannot_be_a_table_is_refused(
    tmp_path: Path, words: list[str], vectors: np.ndarray, found: str
) -> None:
    with pytest.raises(UserError, match=found):
        write_word_table(tmp_path, words, vectors, "", 3)
    assert not list(tmp_path.iterdir())
