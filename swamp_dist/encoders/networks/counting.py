"""What a network of another library costs, counted by running it for one input on the meta device.

No number is computed there. Operations are counted by torch's own counter, kept values by its hooks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from swamp_dist.encoders.cost import Counted, EncoderCost
from swamp_dist.encoders.encoder import Encoder
from swamp_dist.records import InputSpec, Tokens

_FLOAT = 4


@dataclass(frozen=True)
class CountedInput:
    """A network on one input."""

    operations: Counted
    trained: int
    frozen: int
    saved_floats: int

    def times(self, rows: int) -> EncoderCost:
        """The network on so many inputs."""
        counted = self.operations.times(rows)
        return EncoderCost([counted], self.trained, rows * self.saved_floats, self.frozen)


@lru_cache(maxsize=16)
def count_images(encoder: Encoder, spec: InputSpec, embedding_dim: int) -> CountedInput:
    """An encoder of images on one of them."""
    pixels = torch.zeros(1, *spec.shape, dtype=torch.uint8, device="meta")
    return _count(lambda: encoder.build(spec, embedding_dim), pixels)


@lru_cache(maxsize=16)
def count_texts(encoder: Encoder, spec: InputSpec, embedding_dim: int, tokens: int) -> CountedInput:
    """An encoder of texts on one of so many tokens."""
    ids = torch.zeros(1, tokens, dtype=torch.int64, device="meta")
    return _count(lambda: encoder.build(spec, embedding_dim), Tokens(ids, ids == 0))


def _count(build: Callable[[], nn.Module], inputs: Tensor | Tokens) -> CountedInput:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = build().train()
        with torch.no_grad(), FlopCounterMode(display=False) as forward:
            network(inputs)
        own = {_storage(x) for x in (*network.parameters(), *network.buffers())}
        kept: dict[int, Tensor] = {}

        def keep(x: Tensor) -> Tensor:
            kept[_storage(x)] = x  # held, so that no storage takes the place of another
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            rows = network(inputs)
        saved = sum(x.untyped_storage().nbytes() for place, x in kept.items() if place not in own)
        with FlopCounterMode(display=False) as backward:
            rows.sum().backward()
    counted = Counted(forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    return CountedInput(counted, trained, frozen, saved // _FLOAT)


def _storage(x: Tensor) -> int:
    """Tells storages apart; on the meta device they have no address."""
    place: int = x.untyped_storage()._cdata  # type: ignore[assignment, unused-ignore]
    return place
