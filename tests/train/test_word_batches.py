"""Micro-batches of words: rows of ids are taken, and the vectors stay whole."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from swamp_dist.records import Inputs, PairBatch, PairEmbeddings, Words
from swamp_dist.train.gradient_cache import encode


class _WordEngine:
    """A bag of words on one side and an array on the other, without DeepSpeed."""

    def __init__(self, micro_batch: int | None) -> None:
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(5, 4).double(), nn.Linear(3, 4).double()
        self.micro_batch = micro_batch
        self.seen: list[int] = []

    def embed_pairs(self, a: Inputs, b: Inputs, *unasked: object) -> PairEmbeddings:
        assert isinstance(a, Words)
        assert isinstance(b, Tensor)
        self.seen.append(len(a.ids))
        words = torch.relu(self.a(a.vectors))[a.ids].amax(dim=1)
        return PairEmbeddings(words, self.b(b), None)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def one_reduction(self) -> nullcontext[None]:
        return nullcontext()


def _gradient(micro_batch: int | None) -> tuple[Tensor, list[int]]:
    engine, random = _WordEngine(micro_batch), torch.Generator().manual_seed(1)
    vectors = torch.randn(7, 5, dtype=torch.float64, generator=random)
    vectors[0] = 0
    words = Words(torch.randint(0, 7, (8, 6), generator=random), vectors)
    array = torch.randn(8, 3, dtype=torch.float64, generator=random)
    batch = PairBatch(0, torch.arange(8), torch.arange(8), words, array)
    encoded = encode(engine, batch, 0)  # type: ignore[arg-type]
    encoded.backward((encoded.embeddings.a @ encoded.embeddings.b.T).logsumexp(dim=1).sum())
    gradients = [p.grad.flatten() for p in (*engine.a.parameters(), *engine.b.parameters())]  # type: ignore[union-attr]
    return torch.cat(gradients), engine.seen


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_micro_batches_of_words_give_the_gradient_of_the_whole_batch(micro_batch: int) -> None:
    whole, seen = _gradient(None)
    assert seen == [8]
    assert whole.abs().max() > 0
    parts, seen = _gradient(micro_batch)
    assert sum(seen) == 16
    assert max(seen) == micro_batch
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
