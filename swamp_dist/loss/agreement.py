"""Do all ranks call the loss alike? Asked before anything else is sent, so that no rank waits for ever.

A rank with another batch size, other settings or another state would send other tensors than its peers
expect, and the collectives behind the loss would hang or mix them up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
import torch.distributed as dist

from swamp_dist.distributed import World
from swamp_dist.errors import UserError

_BITS = 62
"""Of a digest, so that it and its negative are int64."""


@final
class Agreement:
    """Compares what the ranks are about to do: one all-reduce of three integers on the host per call.

    It travels between hosts' memories, so that a GPU is not waited for. Where the ranks' group has no backend
    for that, a group of gloo is made at the first call.
    """

    def __init__(self) -> None:
        self._group: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_group": None}  # a copy makes its own

    def check(
        self,
        facts: Mapping[str, object],
        fault: str | None,
        details: Callable[[], Mapping[str, object]],
        world: World,
    ) -> None:
        """Go on where `facts` are equal on all ranks and no rank has a `fault`. All ranks call it.

        Args:
            facts: what has to be equal, in a fixed order.
            fault: what is wrong with this rank's own call; None where nothing is.
            details: asked for where some fact differs, to name it; of facts of the same name these are told.

        Raises:
            UserError: on all ranks, the same one.
        """
        if world.size == 1:
            if fault is not None:
                raise UserError(fault)
            return
        if self._group is None:
            self._group = _host_group(world)
        digest = number_of(repr(list(facts.items())))
        packet = torch.tensor([digest, -digest, int(fault is not None)])
        dist.all_reduce(packet, op=dist.ReduceOp.MAX, group=self._group)
        largest, negative, faults = packet.tolist()
        if largest == -negative and not faults:
            return
        told: list[Any] = [None] * world.size
        dist.all_gather_object(told, ({**facts, **details()}, fault), group=self._group)
        raise UserError(_what_differs([each for each, _ in told], [fault for _, fault in told]))


def number_of(text: str) -> int:
    """A number below 2^62 that stands for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> (64 - _BITS)


def _host_group(world: World) -> Any:
    return dist.group.WORLD if world.device.type == "cpu" else dist.new_group(backend="gloo")


def _what_differs(facts: Sequence[Mapping[str, object]], faults: Sequence[str | None]) -> str:
    bad = [f"rank {rank}: {fault}" for rank, fault in enumerate(faults) if fault is not None]
    if bad:
        return "\n".join(bad)
    names = dict.fromkeys(name for each in facts for name in each)
    lines = []
    for name in names:
        ranks: dict[str, list[int]] = {}
        for rank, each in enumerate(facts):
            ranks.setdefault(str(each.get(name, "not given")), []).append(rank)
        if len(ranks) > 1:
            lines.append(f"  {name}: " + "; ".join(f"{v} on rank {_ranks(r)}" for v, r in ranks.items()))
    return (
        "SwampLoss was not called alike on all ranks:\n"
        + "\n".join(lines)
        + "\nFix: give every rank the same settings, batches of one size (drop_last=True) and the same "
        "checkpoint, and call the loss equally often."
    )


def _ranks(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:8]))
    return shown if len(ranks) <= 8 else f"{shown} and {len(ranks) - 8} more"
