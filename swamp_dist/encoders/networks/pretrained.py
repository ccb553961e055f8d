"""A network of another library with a Linear of this one behind it, in whole or in part frozen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Blocks = Mapping[str, int]
"""Number of the block that a parameter belongs to, by its name; those before the first block have -1."""


class PretrainedNetwork(nn.Module):
    """Holds a trunk, which a subclass names, and `project`, which is always trained.

    Frozen parameters have no gradient, and modules that hold nothing else stay in evaluation mode, dropout
    included. BatchNorm always does: it normalises by the statistics that it came with and learns scale and
    shift alone. Statistics of a batch would let an embedding depend on the number of ranks and on
    `engine.micro_batch`.
    """

    def __init__(self, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, embedding_dim)

    @property
    def trunk(self) -> nn.Module:
        """The network of the other library."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> PretrainedNetwork:
        """As of any module, but frozen parts and BatchNorm stay in evaluation mode."""
        super().train(mode)
        if mode:
            for module in _resting(self.trunk):
                module.eval()
        return self


def freeze(trunk: nn.Module, trained: str | int, blocks: Blocks) -> None:
    """Take the gradient from the parameters that are not trained.

    Args:
        trained: "all", "none", or how many of the last blocks.
        blocks: of every parameter; not asked for "all" and "none".
    """
    last = max(blocks.values(), default=-1)
    for name, parameter in trunk.named_parameters():
        is_trained = trained == "all" or (trained != "none" and blocks[name] > last - int(trained))
        parameter.requires_grad_(is_trained)


def _resting(module: nn.Module) -> Iterator[nn.Module]:
    """The largest parts that hold parameters and train none, and every BatchNorm."""
    parameters = list(module.parameters())
    if isinstance(module, _BatchNorm) or (parameters and not any(p.requires_grad for p in parameters)):
        yield module
        return
    for child in module.children():
        yield from _resting(child)
