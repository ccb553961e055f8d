"""Counts what ranks send, of a real group or of one rank alone that plays its part in a large one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from swamp_dist.distributed import World, leave

_KINDS = {
    "allgather_": ("all_gather", 1),
    "_allgather_base_": ("all_gather", 1),
    "_reduce_scatter_base_": ("reduce_scatter", 1),
    "allreduce_": ("all_reduce", 0),
    "alltoall_base_": ("all_to_all", 1),
    "broadcast_": ("broadcast", 0),
    "gather_": ("gather", 1),
    "barrier": ("barrier", 0),
}
"""Kind of each operation of torch, and the position of the tensors that the rank hands in."""


class Traffic(TorchDispatchMode):
    """Inside `with Traffic() as traffic`: the collectives of this process, backward passes included.

    Ranks as threads (`tests.ranks`) are not seen: their collectives do not pass torch's dispatcher.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []
        """Kind, and bytes of the tensors that the rank hands in, in order."""

    @property
    def counts(self) -> Counter[str]:
        """Collectives of each kind."""
        return Counter(kind for kind, _ in self.calls)

    @property
    def payloads(self) -> Counter[str]:
        """Bytes handed in for each kind."""
        total: Counter[str] = Counter()
        for kind, payload in self.calls:
            total[kind] += payload
        return total

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, name = func._schema.name.split("::")
        if namespace == "c10d":
            if name not in _KINDS:
                raise NotImplementedError(f"collective {name} is not counted yet: add it to tests/traffic.py")
            kind, position = _KINDS[name]
            handed_in = [x for x in tree_leaves(args[position]) if isinstance(x, Tensor)]
            self.calls.append((kind, 0 if kind == "barrier" else sum(x.nbytes for x in handed_in)))
        return func(*args, **(kwargs or {}))


@contextmanager
def claim_world(size: int, rank: int = 0) -> Iterator[World]:
    """This process as `rank` of `size` ranks that do not exist: what it sends goes nowhere.

    Shapes, calls and bytes are those of a real world. Values are not: a gather gives `size` copies of the
    rank's own rows, a reduction gives them back unchanged, and a broadcast brings nothing.
    """
    dist.init_process_group("fake", rank=rank, world_size=size, store=FakeStore())
    try:
        yield World(rank, size, rank, torch.device("cpu"))
    finally:
        leave()
