"""A small model over sets, regions against words, and its batches, each padded by the rank that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from swamp_dist.config import ModelSettings
from swamp_dist.data.field_inputs import pad_sets
from swamp_dist.distributed import World
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.records import InputSpec, PairBatch
from tests.data.ragged_sets import WIDTH, regions

PAIRS, DIM = 24, 24
SETS: dict[str, Any] = {"kind": "par", "queries": 3, "heads": 2}
GRU = {"kind": "gru", "buckets": 40, "width": 8, "output": "words", "unit": True}
SPECS = InputSpec((WIDTH,), kind="set"), InputSpec((), kind="text")


def settings(**sets: Any) -> ModelSettings:
    values = {"embedding_dim": DIM, "a": {"kind": "linear", "unit": True}, "b": GRU, "sets": {**SETS, **sets}}
    return ModelSettings.model_validate(values)


def model(**sets: Any) -> DualEncoder:
    return build_dual_encoder(settings(**sets), *SPECS, 5, normalize_prototypes=True, seed=0)


def batches(steps: int, world: World, dtype: torch.dtype = torch.float32) -> Iterator[PairBatch]:
    """This rank's pairs: picture i has 1 + i mod 5 regions, its text 1 + i mod 7 words."""
    tokenizer, local = settings().b.tokenizer(), PAIRS // world.size
    assert tokenizer is not None
    for step in range(steps):
        numbers = range(step * PAIRS + world.rank * local, step * PAIRS + (world.rank + 1) * local)
        sets = pad_sets([regions(number, "float64") / 10 for number in numbers])
        texts = [" ".join(f"w{(number * 3 + i) % 17}" for i in range(1 + number % 7)) for number in numbers]
        ids, places = torch.tensor(numbers), torch.tensor(numbers) - step * PAIRS
        yield PairBatch(step, ids, places, sets._replace(values=sets.values.to(dtype)), tokenizer(texts))
