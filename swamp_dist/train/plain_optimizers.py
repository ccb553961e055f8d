"""torch's optimisers without their marks for torch's compiler, and Adam in blocks that stay in cache.

torch marks some methods of an optimiser as not to be compiled. The first call of one imports the compiler,
1.5 seconds of each rank's start, and every step tells it to break its graph. Nothing is compiled here.

torch's loop of Adam goes over a parameter, its gradient and both moments some ten times, with two tensors of
its own. On a CPU it gets them in blocks here, so that all but the first pass find their values in cache. Its
operations treat every value alone: the bits are those of the whole.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

_Kind = TypeVar("_Kind", bound=torch.optim.Optimizer)
_MARKED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
BLOCK = 2**17
"""Values of a parameter that a CPU updates at a time: six tensors of them are 3 MiB of float32. With fewer,
calls take more than is saved."""


def plain(kind: type[_Kind]) -> type[_Kind]:
    """The same optimiser, the arithmetic of its step included, whose methods leave the compiler alone.

    `functools.wraps` keeps what a decorator was given, and `inspect.unwrap` finds it. Of a torch that marks
    nothing, or in another way, the methods stay what they are.
    """
    return cast("type[_Kind]", _plain(cast("Any", kind)))


@functools.cache
def _plain(kind: Any) -> type[torch.optim.Optimizer]:
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _MARKED}
    # What torch wraps around a step otherwise: no gradient, as `differentiable` is False. The hooks of a step
    # are wrapped around it again for each class, when the first optimiser of it is made.
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    if issubclass(kind, torch.optim.Adam):
        methods["_init_group"] = _collect_in_blocks(kind._init_group)
    return type(kind.__name__, (kind,), methods | {"__doc__": kind.__doc__, "__module__": __name__})


def _collect_in_blocks(collect: Any) -> Any:
    """`collect`, which fills lists of a group's parameters, gradients, moments and counts of steps, with
    blocks in the place of large parameters."""

    def collect_in_blocks(self: Any, group: dict[str, Any], *lists: list[Tensor]) -> Any:
        found = collect(self, group, *lists)
        is_loop = not (group["fused"] or group["foreach"] or group["amsgrad"])
        if is_loop and any(parameter.numel() > BLOCK for parameter in lists[0]):
            *values, _, steps = lists
            rows = [block for row in zip(*values, steps, strict=True) for block in _blocks(*row)]
            for number, column in enumerate((*values, steps)):
                column[:] = [row[number] for row in rows]
        return found

    return collect_in_blocks


def _blocks(*row: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """A parameter, its gradient, its moments and its count of steps, all but the count in blocks of `BLOCK`
    values. The last block has the count itself, which the update raises, the others copies of it."""
    *values, step = row
    if values[0].device.type != "cpu" or values[0].numel() <= BLOCK:
        return [row]
    if not all(value.is_contiguous() for value in values):
        return [row]
    parts = list(zip(*(torch.split(value.view(-1), BLOCK) for value in values), strict=True))
    return [(*part, step.clone()) for part in parts[:-1]] + [(*parts[-1], step)]
