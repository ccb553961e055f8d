"""Pruned word vectors: damaged and hostile files are refused by name and take no memory."""

import tracemalloc
import zipfile

import numpy as np
import pytest

from swamp_dist.errors import UserError
from swamp_dist.sources.word_pairs import read_npz, read_pair

WORDS, VECTORS = np.array(["the", "caf\u00e9"]), np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_both_forms_of_npz_are_read(tmp_path, save):
    save(tmp_path / "a.npz", words=WORDS, vectors=np.asfortranarray(VECTORS))
    words, vectors = read_npz(tmp_path / "a.npz")
    assert words == WORDS.tolist()
    np.testing.assert_array_equal(vectors, VECTORS)


def test_an_npz_that_would_unpack_to_far_more_than_it_has_is_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("words.npy", "w") as member:
        for _ in range(80):
            member.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"bomb\.npz: .*words\.npy would unpack to 83,886,080 bytes"):
            read_npz(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_every_damage_of_an_npz_is_a_named_error(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, words=WORDS, vectors=VECTORS)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for place in random.integers(len(whole), size=300).tolist():
        data = bytearray(whole)
        data[place] ^= 1 << int(random.integers(8))
        path.write_bytes(data[: int(random.integers(1, len(data)))] if place % 4 == 0 else data)
        try:
            read_npz(path)
        except UserError as error:
            refused += str(path) in str(error)
    assert refused > 150


def test_an_npy_or_letters_that_are_none_in_an_npz_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        np.save(file, VECTORS)
    with pytest.raises(UserError, match="not a readable"):
        read_npz(path)
    np.savez(path, words=np.frombuffer(b"\xff" * 8, "<U1"), vectors=VECTORS)
    with pytest.raises(UserError, match="not a readable"):
        read_npz(path)
    np.savez(path, words=WORDS.reshape(1, 2), vectors=VECTORS)
    with pytest.raises(UserError, match=r"expected `words` to be texts \(n,\)"):
        read_npz(path)


def test_a_pair_with_a_damaged_header_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("the\n")
    for payload in (b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((\n", b"PK\x03\x04" + bytes(60)):
        (tmp_path / "a.npy").write_bytes(payload)
        with pytest.raises(UserError, match="not a readable array"):
            read_pair(tmp_path / "a.npy")
