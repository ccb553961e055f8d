"""Vocabularies: their numbers, their files of three programs, and captions as numbers."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from swamp_dist.encoders.vocabulary import (
    MARKS,
    Vocabulary,
    VocabularyTokenizer,
    build_vocabulary,
    nltk_words,
    read_vocabulary,
    write_vocabulary,
)
from swamp_dist.errors import UserError

WORDS = (*MARKS, "a", "man", "'s", "hat", "é")
VOCABULARY = Vocabulary(WORDS)


def content(words: tuple[str, ...] = WORDS) -> dict[str, Any]:
    return {
        "word2idx": {word: number for number, word in enumerate(words)},
        "idx2word": dict(enumerate(words)),
        "idx": len(words),
    }


def pickled_object(module: str, protocol: int) -> bytes:
    """What VSE++ writes: an object of its class, which this process can name while it writes alone."""
    made, before = ModuleType(module), sys.modules.get(module)
    kind = type("Vocabulary", (), {"__module__": module})
    made.Vocabulary = kind  # type: ignore[attr-defined]
    value = kind()
    value.__dict__.update(content())
    sys.modules[module] = made
    try:
        return pickle.dumps(value, protocol)
    finally:
        del sys.modules[module]
        if before is not None:
            sys.modules[module] = before


def test_the_file_of_scan_is_read_and_written(tmp_path: Path) -> None:
    file = tmp_path / "f30k_precomp_vocab.json"
    file.write_text(json.dumps(content()))  # as SCAN: keys of idx2word become texts, others escapes
    assert read_vocabulary(file) == VOCABULARY
    write_vocabulary(VOCABULARY, tmp_path / "own.json")
    assert json.loads((tmp_path / "own.json").read_text("utf-8")) == json.loads(file.read_text())
    assert read_vocabulary(tmp_path / "own.json").sha256 == VOCABULARY.sha256


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("module", ["vocab", "__main__"])
def test_the_object_of_vsepp_is_read(tmp_path: Path, module: str, protocol: int) -> None:
    file = tmp_path / "coco_precomp_vocab.pkl"
    file.write_bytes(pickled_object(module, protocol))
    assert read_vocabulary(file) == VOCABULARY


def test_the_dictionary_of_pcme_is_read(tmp_path: Path) -> None:
    file = tmp_path / "coco_vocab.pkl"
    file.write_bytes(pickle.dumps(content(), 2))
    assert read_vocabulary(file) == VOCABULARY


def test_texts_of_python_2_are_read(tmp_path: Path) -> None:
    """It wrote the marks as bytes, and words of a decoded caption as unicode."""
    file = tmp_path / "vocab.pkl"
    entries = b"".join(b"U" + bytes([len(m)]) + m.encode() + b"K" + bytes([i]) for i, m in enumerate(MARKS))
    word = "é".encode()
    entries += b"X" + len(word).to_bytes(4, "little") + word + b"K\x04"
    file.write_bytes(b"\x80\x02cvocab\nVocabulary\n)\x81}U\x08word2idx}(" + entries + b"usb.")
    assert read_vocabulary(file).words == (*MARKS, "é")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return sys.exit, (3,)


@pytest.mark.parametrize(
    ("words", "finding"),
    [
        ({"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3, "a": 5}, "'a' has the number 5, of 5 words"),
        (
            {"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3, "a": 3},
            "'<unk>' and 'a' both have the number",
        ),
        ({"a": 0, "<pad>": 1, "<start>": 2, "<end>": 3, "<unk>": 4}, "its first words are a, <pad>"),
        ({"<pad>": True}, "'<pad>' has the number True"),
        ([], "no word2idx"),
    ],
)
def test_what_is_no_vocabulary_is_refused(tmp_path: Path, words: object, finding: str) -> None:
    file = tmp_path / "vocab.json"
    file.write_text(json.dumps({"word2idx": words}))
    with pytest.raises(UserError) as raised:
        read_vocabulary(file)
    assert finding in str(raised.value)
    assert "SCAN's .json" in str(raised.value)


@pytest.mark.parametrize(
    "value", [{"word2idx": {}, "more": Evil()}, Evil(), {"word2idx": Evil}], ids=["inside", "whole", "class"]
)
def test_a_pickle_runs_nothing(tmp_path: Path, value: object) -> None:
    file = tmp_path / "vocab.pkl"
    file.write_bytes(pickle.dumps(value, 2))
    with pytest.raises(UserError, match="refused, because it names"):
        read_vocabulary(file)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02cvocab\nVocabulary\n.",  # the class itself
        b"\x80\x02cvocab\nVocabulary\n)\x81.",  # an object without attributes
        b"\x80\x02cvocab\nVocabulary\n)\x81]b.",  # attributes that are no dictionary
        b"\x80\x02cvocab\nVocabulary\n)\x81}b}b.",  # and twice
        b"\x80\x02cvocab\nVocabulary\n}U\x01aK\x01sb.",  # attributes for the class
        b"\x80\x02cvocab\nVocabulary\n(K\x01t\x81.",  # made with an argument
    ],
)
def test_broken_objects_are_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "vocab.pkl"
    file.write_bytes(data)
    with pytest.raises(UserError, match="cannot be read as a pickle"):
        read_vocabulary(file)


def test_absent_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_vocabulary(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("[" * 10)
    with pytest.raises(UserError, match="is no vocabulary"):
        read_vocabulary(tmp_path / "bad.json")


def test_frequent_words_are_counted_as_captions_are_cut() -> None:
    built = build_vocabulary(["A man's hat .", "a Man .", "a <pad> hat"], min_count=2)
    assert built.words == (*MARKS, "a", "man", "hat", ".", "<", "pad", ">")[:8]


def test_captions_become_marks_and_words() -> None:
    tokens = VocabularyTokenizer(VOCABULARY)(["A Man's hat", "hat dog", ""])
    assert tokens.ids.tolist() == [[1, 4, 5, 6, 7, 2], [1, 7, 3, 2, 0, 0], [1, 2, 0, 0, 0, 0]]
    assert tokens.mask.tolist() == [[True] * 6, [True] * 4 + [False] * 2, [True] * 2 + [False] * 4]


def test_words_beyond_the_most_are_cut_before_the_end() -> None:
    tokens = VocabularyTokenizer(VOCABULARY, max_words=2)(["a man's hat", "a"])
    assert tokens.ids.tolist() == [[1, 4, 5, 2], [1, 4, 2, 0]]


def test_no_texts_and_a_pickled_copy() -> None:
    tokenizer = pickle.loads(pickle.dumps(VocabularyTokenizer(VOCABULARY)))
    assert tokenizer([]).ids.shape == (0, 1)
    assert tokenizer(["hat"]).ids.tolist() == [[1, 7, 2]]


def test_marks_stand_first() -> None:
    with pytest.raises(ValueError, match="after <pad>"):
        Vocabulary(("a", *MARKS))
    with pytest.raises(ValueError, match="different"):
        Vocabulary((*MARKS, "a", "a"))


def test_words_are_cut_by_the_same_rules_everywhere() -> None:
    assert nltk_words("it's") == ["it", "'s"]
