"""CUDA graphs of blocks of iterations: on a GPU a small solve is all launches, and a graph is one.

A graph replays kernels on the addresses that it was recorded with, so a block gets its inputs in tensors of
its own and hands out copies of its results; the scores and the memory for a kernel must stay where they are.
All-reduces are recorded with the rest. NCCL wants a call to be recorded on all ranks or on none, so what
decides must be equal on all ranks: the rows of all of them together, never those of one. For the same reason
no block is run once more to warm up: the first use of a block is an ordinary run (which compiles kernels and
opens connections, as torch asks before a recording), the second records it, and every use sends the same
collectives.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
Record = Callable[[Callable[[], Tensors]], tuple[Tensors, Callable[[], None]]]
"""Takes a function without arguments to the tensors of its results and to what fills them anew."""


def record_cuda(function: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], None]]:
    """`function` as a CUDA graph. It is not run, but for the work of the host."""
    graph = torch.cuda.CUDAGraph()
    # NCCL's watchdog thread asks for events meanwhile, which the stricter default takes for an error.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        results = function()
    return results, graph.replay


@dataclass(frozen=True)
class _Recorded:
    function: Callable[[Tensors], Tensors]
    """Kept for the memory that it holds."""
    inputs: Tensors
    results: Tensors
    replay: Callable[[], None]

    def __call__(self, inputs: Tensors) -> Tensors:
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        self.replay()
        return tuple(result.clone() for result in self.results)


class BlockGraphs:
    """The graphs of one caller that solves every step in the same memory."""

    def __init__(self, record: Record = record_cuda) -> None:
        self._record = record
        self._problem: Hashable = None
        self._addresses: list[int] = []
        self._blocks: dict[Hashable, _Recorded | None] = {}

    def begin(self, problem: Hashable, memory: list[Tensor]) -> None:
        """A solve begins. Graphs of another `problem` are forgotten; it must be equal on all ranks.

        Raises:
            ValueError: the problem is the last one, but its `memory` lies elsewhere.
        """
        addresses = [tensor.data_ptr() for tensor in memory]
        if problem != self._problem:
            self._blocks.clear()
            self._problem, self._addresses = problem, addresses
        elif addresses != self._addresses:
            raise ValueError(
                "the memory of a solve moved, but its blocks may be recorded: keep it from step to step"
            )

    def run(self, block: Hashable, function: Callable[[Tensors], Tensors], inputs: Tensors) -> Tensors:
        """`function` of `inputs`, recorded on its second use under the name `block`.

        It must not read a value on the host, nor anything that moves from solve to solve but its inputs.
        """
        if block not in self._blocks:
            self._blocks[block] = None
            return function(inputs)
        recorded = self._blocks[block]
        if recorded is None:
            held = tuple(tensor.clone() for tensor in inputs)
            recorded = _Recorded(function, held, *self._record(lambda: function(held)))
            self._blocks[block] = recorded
        return recorded(inputs)
