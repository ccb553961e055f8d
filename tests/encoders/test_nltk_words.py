"""Words against NLTK's own tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.tokenize import NLTKWordTokenizer

from swamp_dist.encoders.nltk_words import nltk_words

oracle = NLTKWordTokenizer()
SHOWN = """ ' " '' `` ` . .. ... , : ; ? ! * - -- ( ) [ ] { } < > « » “ ” ‘ ’ „ – — ― 's 'S 'm 'd 'll n't N'T
    don't 're 'VE it's cannot gonna wanna Wanna gimme lemme gotta d'ye more'n 'tis 'twas 1 23 3,4 5:30 $ % &
    @ # a b hat Man é """
PIECES = [*SHOWN.split(), " ", "  ", "\t", "\n", " 'tis", "wanna "]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_words_are_those_of_nltk(text: str) -> None:
    assert nltk_words(text) == oracle.tokenize(text)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30))
def test_words_of_any_ascii_are_those_of_nltk(text: str) -> None:
    assert nltk_words(text) == oracle.tokenize(text)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("two men in a u.s. army hat .", ["two", "men", "in", "a", "u.s.", "army", "hat", "."]),
        ("A dog's toy; it can't run.", ["A", "dog", "'s", "toy", ";", "it", "ca", "n't", "run", "."]),
        ('a sign says "stop"', ["a", "sign", "says", "``", "stop", "''"]),
        ("3,4 of them, at 5:30", ["3,4", "of", "them", ",", "at", "5:30"]),
        ("cannot", ["can", "not"]),
        ("", []),
    ],
)
def test_captions(caption: str, words: list[str]) -> None:
    assert nltk_words(caption) == words
