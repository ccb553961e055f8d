"""The encoding of a step's batch: at once, or in micro-batches with the gradient cached at the embeddings.

The objective couples all pairs of a batch, so plain accumulation would change its negatives and its
solve. The cache (GradCache, Gao et al. 2021) changes neither: every micro-batch is encoded without
gradient, the objective sees the embeddings of the whole batch, and each micro-batch is encoded once
more to carry its rows of dL/d(embedding) to the parameters. One more encoding buys an activation
memory of one micro-batch. The gradient is that of the whole batch up to the rounding of a sum.

Dropout is keyed by (seed, step, rank, micro-batch). So both encodings of a micro-batch drop the same
units, a resumed run repeats an uninterrupted one, and the gradient is exactly that of the reported loss.
Another micro-batch size draws other masks of the same distribution, as another world size does; without
dropout the size changes rounding only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from swamp_dist.records import PairBatch, PairEmbeddings, PairSets, Reversals, take_rows
from swamp_dist.row_exchange import Pending
from swamp_dist.train.engine import Engine
from swamp_dist.train.random_keys import micro_batch_random_key, seed_dropout

_ROWS = ("a", "b", "free_a", "free_b", "negatives", "words", "domains")
"""Fields of `PairEmbeddings` that hold a row per pair."""


@dataclass(frozen=True)
class EncodedBatch:
    """This rank's embeddings and the way back from a loss of them."""

    embeddings: PairEmbeddings | PairSets
    """Rows a, b (b, D) of all this rank's pairs, prototypes (K, D) and logits, with gradient; of a model that
    does not embed, their sets."""
    backward: Callable[[Tensor], None]
    """Takes the 0-d loss of this rank to parameter gradients averaged over ranks; call it once."""
    all_a: Pending | None = None
    """The rows of A of all ranks on their way, if they were sent off while B was computed."""


def encode(
    engine: Engine,
    batch: PairBatch,
    random_key: int,
    send_a: Callable[[Tensor], Pending | None] | None = None,
    reversals: Reversals | None = None,
) -> EncodedBatch:
    """Embed this rank's pairs, `engine.micro_batch` at a time where it is set.

    Args:
        engine: the model; all ranks call this together, with equally many pairs.
        batch: this rank's pairs.
        random_key: what dropout of this step and rank is drawn from (`step_random_key`).
        send_a: sends the rows of A off as soon as they are there; not asked where the batch comes in
            micro-batches, whose rows are whole only at the end.
        reversals: how the gradients of the model's heads are reversed; None where it has none.
    """
    if engine.micro_batch in (None, len(batch.ids)):
        sent: list[Pending | None] = [None]

        def on_a(rows: Tensor) -> None:
            sent[0] = None if send_a is None else send_a(rows)

        given = _Encoding(engine, batch, random_key, reversals).given(slice(None), 0, on_a)
        return EncodedBatch(given, engine.backward, sent[0])
    # Gradient cache, first half: embed every micro-batch without gradient.
    parts = [slice(i, i + engine.micro_batch) for i in range(0, len(batch.ids), engine.micro_batch)]
    encoding = _Encoding(engine, batch, random_key, reversals)
    with torch.no_grad():
        pieces = [encoding.embed(rows, n) for n, rows in enumerate(parts)]
    # The objective sees the whole batch; its gradient ends at these leaves.
    leaves = _leaves(pieces)
    return EncodedBatch(leaves, partial(_backward, encoding, parts, leaves))


@dataclass(frozen=True)
class _Encoding:
    """What it takes to encode some rows of a batch, once or again."""

    engine: Engine
    batch: PairBatch
    random_key: int
    reversals: Reversals | None

    def embed(self, rows: slice, number: int) -> PairEmbeddings:
        given = self.given(rows, number)
        assert isinstance(given, PairEmbeddings), "micro-batches are refused where a model does not embed"
        return given

    def given(
        self, rows: slice, number: int, on_a: Callable[[Tensor], None] | None = None
    ) -> PairEmbeddings | PairSets:
        batch = self.batch
        seed_dropout(micro_batch_random_key(self.random_key, number), batch.ids.device)
        a, b = take_rows(batch.a, rows), take_rows(batch.b, rows)
        negatives = None if batch.negatives is None else take_rows(batch.negatives, rows)
        return self.engine.embed_pairs(a, b, on_a, negatives, self.reversals)


def _leaves(pieces: list[PairEmbeddings]) -> PairEmbeddings:
    """The whole batch as if no model stood behind it; what is no rows is the same in every piece."""
    first = pieces[0]._asdict()
    rows = {
        name: torch.cat([getattr(piece, name) for piece in pieces])
        for name, value in first.items()
        if name in _ROWS and value is not None
    }
    whole = pieces[0]._replace(**rows)
    return PairEmbeddings(*map(_leaf, whole))  # type: ignore[arg-type]


def _leaf(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach().requires_grad_()


def _backward(encoding: _Encoding, parts: list[slice], leaves: PairEmbeddings, loss: Tensor) -> None:
    """Gradient cache, second half: dL/d(embeddings), then every micro-batch again, each with its rows of
    it."""
    held = {name: leaf for name, leaf in leaves._asdict().items() if leaf is not None}
    # Rows of unit length go into no loss where only those of free length are compared.
    found = torch.autograd.grad(loss, list(held.values()), allow_unused=True)
    whole = {name: g for name, g in zip(held, found, strict=True) if g is not None}
    with encoding.engine.one_reduction():
        for number, rows in enumerate(parts):
            # Prototypes and logits are no rows: one encoding carries their gradient, any other repeats it.
            own = {name: g[rows] if name in _ROWS else g for name, g in whole.items()}
            gradients = {name: g for name, g in own.items() if name in _ROWS or number == 0}
            encoding.engine.backward(_pull(encoding.embed(rows, number), gradients))


def _pull(embeddings: PairEmbeddings, gradients: Mapping[str, Tensor]) -> Tensor:
    """A 0-d sum whose gradient at the embeddings is `gradients`."""
    products = [(getattr(embeddings, name) * gradient).sum() for name, gradient in gradients.items()]
    return torch.stack(products).sum()
