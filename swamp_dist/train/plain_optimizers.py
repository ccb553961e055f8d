"""torch's optimisers without their marks for torch's compiler.

torch marks some methods of an optimiser as not to be compiled. The first call of one imports the compiler,
1.5 seconds of each rank's start, and every step tells it to break its graph. Nothing is compiled here.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, TypeVar, cast

import torch

_Kind = TypeVar("_Kind", bound=torch.optim.Optimizer)
_MARKED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


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
    return type(kind.__name__, (kind,), methods | {"__doc__": kind.__doc__, "__module__": __name__})
