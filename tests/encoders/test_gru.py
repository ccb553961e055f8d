"""The bidirectional GRU against torch's own, and padding that changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from swamp_dist.config import BagOfWordsSettings, GruSettings
from swamp_dist.encoders.networks.gru import Gru
from swamp_dist.encoders.vocabulary import MARKS, Vocabulary, write_vocabulary
from swamp_dist.records import InputSpec, Sets, Tokens

TEXT = InputSpec((), kind="text")
TEXTS = ["a red cat", "dog", "the cat sits on the red mat of the blue house"]


def _network() -> tuple[Gru, Tokens]:
    torch.manual_seed(0)
    settings = GruSettings(buckets=40, width=6, max_words=20)
    network = settings.build(TEXT, 5)
    assert isinstance(network, Gru)
    return network.double(), settings.tokenizer()(TEXTS)


def test_a_text_is_what_a_packed_bidirectional_gru_makes_of_it() -> None:
    network, tokens = _network()
    reference = nn.GRU(6, 5, batch_first=True, bidirectional=True).double()
    state = {**network.forwards.state_dict()}
    assert network.backwards is not None
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


@pytest.mark.parametrize("output", ["mean", "last", "words"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("unit", [False, True])
def test_states_are_those_of_the_gates_written_out(output: Any, directions: Any, unit: bool) -> None:
    """Cho et al. 2014 as torch writes it, a loop over words: r, z = sigmoid, n = tanh(W x + r (U h)),
    h' = (1 - z) n + z h. SCAN's word: the mean of both directions; VSE++'s text: the last state."""
    if unit and output == "last":
        with pytest.raises(ValidationError, match="unit = true is of every word"):
            GruSettings(output="last", unit=True)
        return
    settings = GruSettings(buckets=40, width=6, max_words=20, output=output, directions=directions, unit=unit)
    torch.manual_seed(0)
    network = settings.build(TEXT, 5).double()
    assert isinstance(network, Gru)
    tokens = settings.tokenizer()(TEXTS)
    found, rows = network(tokens), []
    for text, ids in zip(TEXTS, tokens.ids, strict=True):
        x = network.vectors(ids[: len(text.split())])
        ways = [_states(network.forwards, x)]
        if directions == 2:
            back = _states(network.backwards, x.flip(0))
            ways.append([back[0], *back[1:]] if output == "last" else back[::-1])
        states = [sum(pair[1:], pair[0]) / directions for pair in zip(*ways, strict=True)]
        if unit:
            states = [h / h.square().sum().sqrt() for h in states]
        rows.append(torch.stack(states) if output == "words" else sum(states[1:], states[0]) / len(states)
                    if output == "mean" else states[-1])  # fmt: skip
    if output == "words":
        assert found.mask.sum(1).tolist() == [len(text.split()) for text in TEXTS]
        assert not found.values[~found.mask].any()
        found = [values[mask] for values, mask in zip(*found, strict=True)]
    pulled = [torch.randn_like(row) for row in rows]
    for ours, theirs in zip(found, rows, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    parameters = list(network.parameters())
    sums = [sum((row * p).sum() for row, p in zip(side, pulled, strict=True)) for side in (found, rows)]
    for ours, theirs in zip(*(torch.autograd.grad(each, parameters) for each in sums), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def _states(gru: nn.GRU, x: torch.Tensor) -> list[torch.Tensor]:
    """The states after every word of x (n, width)."""
    h, states = torch.zeros(5, dtype=x.dtype), []
    for word in x:
        own = (gru.weight_ih_l0 @ word + gru.bias_ih_l0).split(5)
        before = (gru.weight_hh_l0 @ h + gru.bias_hh_l0).split(5)
        r, z = (torch.sigmoid(own[i] + before[i]) for i in range(2))
        h = (1 - z) * torch.tanh(own[2] + r * before[2]) + z * h
        states.append(h)
    return states


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.integers(0, 5),
    st.sampled_from(["mean", "last", "words"]),
    st.sampled_from([1, 2]),
)
def test_padding_and_batch_mates_never_change_a_number(
    lengths: list[int], more: int, output: Any, directions: Any
) -> None:
    """Ids of padding change no bit; other texts and a wider batch nothing beyond 1e-12 in float64."""
    torch.manual_seed(0)
    network = GruSettings(buckets=40, width=6, output=output, directions=directions).build(TEXT, 5).double()
    mask = torch.arange(max(lengths) + more) < torch.tensor(lengths).unsqueeze(1)
    tokens = Tokens(torch.randint(1, 41, mask.shape), mask)
    other = Tokens(torch.where(mask, tokens.ids, 7), mask)
    rows, again = (_rows(network(each)) for each in (tokens, other))
    assert all(torch.equal(one, two) for one, two in zip(rows, again, strict=True))
    for i, length in enumerate(lengths):
        alone = _rows(network(Tokens(tokens.ids[i : i + 1, :length], mask[i : i + 1, :length])))
        torch.testing.assert_close(alone[0], rows[i], rtol=1e-12, atol=1e-12)


def _rows(found: Any) -> list[torch.Tensor]:
    """Every text's own row, or its words' rows."""
    return [v[m] for v, m in zip(*found, strict=True)] if isinstance(found, Sets) else list(found)


def test_words_are_those_of_the_bag_of_words() -> None:
    mine, others = (kind(buckets=99, max_words=4).tokenizer() for kind in (GruSettings, BagOfWordsSettings))
    assert torch.equal(mine(TEXTS).ids, others(TEXTS).ids)


# -- words of a vocabulary -------------------------------------------------------------------------


def _vocabulary(folder: Path, *words: str) -> Path:
    write_vocabulary(Vocabulary((*MARKS, *words)), folder / "vocab.json")
    return folder / "vocab.json"


def test_words_of_a_vocabulary_have_a_vector_each(tmp_path: Path) -> None:
    settings = GruSettings(vocabulary=_vocabulary(tmp_path, "a", "cat", "red"), width=6, output="words")
    network, tokens = settings.build(TEXT, 5), settings.tokenizer()(["A red dog.", "cat"])
    assert isinstance(network, Gru)
    assert network.vectors.weight.shape == (7, 6)
    assert tokens.ids.tolist() == [[1, 4, 6, 3, 3, 2], [1, 5, 2, 0, 0, 0]]
    assert network(tokens).mask.sum(1).tolist() == [6, 3]
    assert settings.most_elements(TEXT) == 66
    cost = settings.cost(2, TEXT, 5)
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    assert settings.start_problem(TEXT, from_files=True) is None


def test_another_vocabulary_is_another_mark(tmp_path: Path) -> None:
    settings = GruSettings(vocabulary=_vocabulary(tmp_path, "a", "cat"))
    before = settings.set_marks()
    _vocabulary(tmp_path, "a", "dog and more")
    marks = [
        each["vocabulary (sha256)"] for each in (before, settings.set_marks(), GruSettings().set_marks())
    ]
    assert len(set(marks)) == 3


def test_a_vocabulary_that_is_not_there_is_told_before_a_start(tmp_path: Path) -> None:
    for named, said in ((tmp_path / "none.json", "no such file"), ("set", "the shard set has no vocabulary")):
        problem = GruSettings(vocabulary=named).start_problem(TEXT, from_files=True)
        assert problem is not None
        assert said in problem
