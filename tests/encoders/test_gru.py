"""The bidirectional GRU against torch's own, and padding that changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from swamp_dist.config import BagOfWordsSettings, GruSettings
from swamp_dist.encoders.networks.gru import BidirectionalGru
from swamp_dist.records import InputSpec, Tokens

TEXT = InputSpec((), kind="text")
TEXTS = ["a red cat", "dog", "the cat sits on the red mat of the blue house"]


def _network() -> tuple[BidirectionalGru, Tokens]:
    torch.manual_seed(0)
    settings = GruSettings(buckets=40, width=6, max_words=20)
    network = settings.build(TEXT, 5)
    assert isinstance(network, BidirectionalGru)
    return network.double(), settings.tokenizer()(TEXTS)


def test_a_text_is_what_a_packed_bidirectional_gru_makes_of_it() -> None:
    network, tokens = _network()
    reference = nn.GRU(6, 5, batch_first=True, bidirectional=True).double()
    state = {**network.forwards.state_dict()}
    state |= {f"{name}_reverse": value for name, value in network.backwards.state_dict().items()}
    reference.load_state_dict(state)
    found = network(tokens)
    for row, text in enumerate(TEXTS):
        words = tokens.ids[row : row + 1, : len(text.split())]
        states = reference(network.vectors(words))[0]
        expected = (states[..., :5] + states[..., 5:]).mean(1) / 2  # both directions, then the words
        torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("more", [1, 7])
def test_padding_and_the_texts_beside_it_change_neither_rows_nor_gradients(more: int) -> None:
    network, tokens = _network()
    ids = torch.cat([tokens.ids, torch.full((3, more), 9)], dim=1)  # padding may hold anything
    wide = Tokens(ids, torch.cat([tokens.mask, torch.zeros(3, more, dtype=torch.bool)], dim=1))
    rows, padded = network(tokens), network(wide)
    torch.testing.assert_close(padded, rows, rtol=0, atol=1e-15)
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(rows.square().sum(), parameters)
    torch.testing.assert_close(torch.autograd.grad(padded.square().sum(), parameters), gradients)
    alone = network(Tokens(tokens.ids[1:2, :1], tokens.mask[1:2, :1]))
    torch.testing.assert_close(alone, rows[1:2], rtol=0, atol=1e-15)


def test_a_text_without_words_is_zero_and_finite_in_the_backward_pass() -> None:
    network, _ = _network()
    rows = network(GruSettings(buckets=40).tokenizer()(["", "cat"]))
    rows.square().sum().backward()
    assert rows[0].abs().max() == 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_words_are_those_of_the_bag_of_words() -> None:
    mine, others = (kind(buckets=99, max_words=4).tokenizer() for kind in (GruSettings, BagOfWordsSettings))
    assert torch.equal(mine(TEXTS).ids, others(TEXTS).ids)
