import hashlib
import logging
import tracemalloc

import numpy as np
import pytest

from swamp_dist.errors import UserError
from swamp_dist.sources import word_vectors
from swamp_dist.sources.word_vectors import read_vectors

WORDS = ["</s>", "the", "Fr\u00fch", "don't", "cat", "the"]
VECTORS = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def binary(words=WORDS, vectors=VECTORS, newline=b"", count=None):
    parts = [f"{len(words) if count is None else count} {vectors.shape[1]}\n".encode()]
    for word, vector in zip(words, vectors, strict=True):
        spelled = word if isinstance(word, bytes) else word.encode()
        parts += [spelled, b" ", vector.astype("<f4").tobytes(), newline]
    return b"".join(parts)


def text(words=WORDS, vectors=VECTORS, header=False):
    lines = [f"{len(words)} {vectors.shape[1]}"] if header else []
    lines += [" ".join([word, *map(repr, map(float, row))]) for word, row in zip(words, vectors, strict=True)]
    return ("\n".join(lines) + "\n").encode()


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def assert_right(path, sha256=None):
    found = read_vectors(path, {"the", "cat", "Fr\u00fch", "absent"})
    words, vectors, digest = found
    assert words == ["the", "Fr\u00fch", "cat"]  # in file order, the first of two `the`
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, VECTORS[[1, 2, 4]])
    assert digest == (sha256 or hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("chunk", [1, 7, 1 << 22])
@pytest.mark.parametrize("newline", [b"", b"\n"])
def test_a_binary_file_comes_back_whatever_the_chunks_cut(tmp_path, monkeypatch, chunk, newline):
    monkeypatch.setattr(word_vectors, "CHUNK", chunk)
    assert_right(write(tmp_path, "v.bin", binary(newline=newline)))


@pytest.mark.parametrize("header", [False, True])
def test_a_text_file_comes_back(tmp_path, header):
    assert_right(write(tmp_path, "v.txt", text(header=header)))
    assert_right(write(tmp_path, "v.vec", text(header=header).replace(b"\n", b" \r\n").removesuffix(b"\r\n")))


def test_a_word_with_blanks_is_its_own_word_in_text(tmp_path):
    words = ["the", "at cat", "cat", ". .", "Fr\u00fch", "cat of"]
    path = write(tmp_path, "v.txt", text(words))
    found = read_vectors(path, {"at", "cat"})
    assert found.words == ["cat"]
    assert np.array_equal(found.vectors, VECTORS[[2]])
    assert np.array_equal(read_vectors(path, {"at cat", "the"}).vectors, VECTORS[[0, 1]])


def test_pruned_pairs_come_back(tmp_path):
    np.savez(tmp_path / "v.npz", words=np.array(WORDS), vectors=VECTORS)
    assert_right(tmp_path / "v.npz")
    np.save(tmp_path / "words.npy", np.concatenate([np.zeros((1, 4), np.float32), VECTORS]))
    beside = write(tmp_path, "words.txt", "\n".join(["", *WORDS, ""]).encode())
    both = (tmp_path / "words.npy").read_bytes() + beside.read_bytes()
    assert_right(tmp_path / "words.npy", hashlib.sha256(both).hexdigest())
    assert read_vectors(tmp_path / "words.npy", {"", "cat"}).words == ["cat"]


def test_words_that_are_not_utf8_are_skipped_and_counted(tmp_path, caplog):
    path = write(tmp_path, "v.bin", binary([b"\xff\xfe", *WORDS[1:]]))
    with caplog.at_level(logging.WARNING):
        assert_right(path)
    assert "1 words are not UTF-8" in caplog.text


def test_nothing_wanted_is_an_empty_table_of_the_files_dimension(tmp_path):
    for path in (write(tmp_path, "v.bin", binary()), write(tmp_path, "v.txt", text())):
        assert read_vectors(path, {"\ud800"}).vectors.shape == (0, 4)


def test_memory_is_bounded_by_what_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(word_vectors, "CHUNK", 1 << 14)
    many = np.ones((20_000, 50), np.float32)
    path = write(tmp_path, "v.bin", binary([f"w{i}" for i in range(20_000)], many))
    tracemalloc.start()
    found = read_vectors(path, {"w7", "w19999"})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.words == ["w7", "w19999"]
    assert peak < path.stat().st_size / 10


NAN = VECTORS.copy()
NAN[4, 2] = np.nan
BAD = {
    "no header": ("v.bin", b"word " + bytes(100), r"damaged at byte 0: no the header"),
    "odd header": ("v.bin", b"6 x\n" + bytes(100), r"byte 0: expected the header"),
    "cut in a vector": ("v.bin", binary()[:-5], r"byte {size}: the file ends in word 6 of 6"),
    "cut in a word": ("v.bin", binary()[:6], r"byte {size}: the file ends in word 1 of 6"),
    "fewer words": ("v.bin", binary(count=9), r"byte {size}: the file ends in word 7 of 9"),
    "more words": ("v.bin", binary(count=5), r"bytes follow the last of the 5 words"),
    "place lost": ("v.bin", b"1 4\n" + b"x" * 5000, r"byte 4: no word 1 of 1 within 4,096 bytes"),
    "not finite": ("v.bin", binary(vectors=NAN), r"byte \d+: the vector of 'cat' holds .* not finite"),
    "not finite in text": ("v.txt", text(vectors=NAN), r"byte \d+: the vector of 'cat' holds .* not finite"),
    "empty text": ("v.txt", b"", r"byte 0: expected a word and the numbers"),
    "cut text": ("v.txt", text(header=True)[:-30], r"expected a word and 4 numbers, found [234] fields"),
    "fewer lines": ("v.txt", b"9 4\n" + text(), r"names 9 words, the file ends after 6"),
    "not a number": ("v.txt", b"the 1 2 3 4\ncat 1 2 x 4\n", r"byte 12: the vector of 'cat' holds something"),
    "endless line": ("v.txt", b"a 1\n" + b"x" * (1 << 20), r"byte 4: a line of more than"),
    "not an npz": ("v.npz", b"PK nonsense", r"not a readable .npz"),
    "not an npy": ("v.npy", b"nonsense", r"not a readable array"),
    "unknown": ("v.bin.gz", b"", r"not a known kind of word vectors"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD)
def test_damage_is_named_with_its_byte(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(UserError, match=message.replace("{size}", f"{len(content):,}")):
        read_vectors(path, {"cat"})


def test_code_in_a_pair_is_refused(tmp_path):
    np.savez(tmp_path / "v.npz", words=np.array(WORDS, object), vectors=VECTORS)
    with pytest.raises(UserError, match="without pickled objects"):
        read_vectors(tmp_path / "v.npz", {"cat"})


def test_pairs_that_do_not_fit_absent_files_and_another_dimension_are_named(tmp_path):
    np.save(tmp_path / "a.npy", VECTORS)
    with pytest.raises(UserError, match=r"a\.txt: absent"):
        read_vectors(tmp_path / "a.npy", {"cat"})
    write(tmp_path, "a.txt", b"one\ntwo\n")
    with pytest.raises(UserError, match="2 words and an array float32 of shape"):
        read_vectors(tmp_path / "a.npy", {"cat"})
    np.savez(tmp_path / "a.npz", words=np.array(WORDS))
    with pytest.raises(UserError, match="expected the arrays `words` and `vectors`"):
        read_vectors(tmp_path / "a.npz", {"cat"})
    with pytest.raises(UserError, match="no word vectors there"):
        read_vectors(tmp_path / "b.bin", {"cat"})
    with pytest.raises(UserError, match="expected vectors of 300 numbers, found 4"):
        read_vectors(write(tmp_path, "v.bin", binary()), {"cat"}, dim=300)
