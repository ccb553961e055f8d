"""A bag of words: padding and the empty text."""

from __future__ import annotations

import torch

from swamp_dist.config import BagOfWordsSettings
from swamp_dist.encoders.hashed_words import HashedWords
from swamp_dist.model.dual_encoder import build_encoder
from swamp_dist.records import InputSpec, Tokens


def test_padding_changes_no_bit_and_no_words_are_zero() -> None:
    encoder = build_encoder(BagOfWordsSettings(buckets=50, width=7), InputSpec((), kind="text"), 5)
    tokens = HashedWords(50, 9)(["one two three", "four"])
    wide = Tokens(
        torch.cat([tokens.ids, torch.full((2, 4), 3)], 1), torch.cat([tokens.mask, torch.zeros(2, 4) > 0], 1)
    )
    assert torch.equal(encoder(tokens), encoder(wide))
    none = Tokens(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1) > 0)
    assert torch.equal(encoder(none)[0], encoder.project.bias)
    expected = encoder.bag.weight[tokens.ids[0]].mean(0)
    torch.testing.assert_close(encoder(tokens)[0], encoder.project(expected))
