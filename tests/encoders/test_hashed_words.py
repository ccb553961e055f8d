"""Hashed words: the same tokens in every process and company."""

from __future__ import annotations

import pickle

import torch

from swamp_dist.encoders.hashed_words import HashedWords


def test_words_are_lower_case_runs_cut_at_the_most() -> None:
    tokens = HashedWords(10**6, 3)(["A cat, a CAT!", "", "Über_alle 3 Berge hin"])
    assert tokens.ids.shape == tokens.mask.shape == (3, 3)
    first, empty, third = tokens.ids.tolist()
    assert first[0] == first[2] != first[1]
    assert empty == [0, 0, 0]
    assert 0 not in third
    assert tokens.mask.sum(1).tolist() == [3, 0, 3]


def test_tokens_depend_on_nothing_but_the_text() -> None:
    words = HashedWords(1000, 8)
    alone, beside = words(["two words"]), words(["two words", "and a text of many more words"])
    assert torch.equal(alone.ids[0], beside.ids[0, :2])
    assert torch.equal(pickle.loads(pickle.dumps(words))(["two words"]).ids, alone.ids)
    assert words(["cat"]).ids.tolist() == [[239]]  # a checkpoint's rows belong to these numbers
    assert words([]).ids.shape == (0, 1)
