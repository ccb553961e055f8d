"""What an encoder costs a rank, counted: operations, parameters, activations. No tensors.

Only matrix products are counted as operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A Linear: rows (n, inputs) -> (n, outputs)."""

    rows: int
    inputs: int
    outputs: int
    passes_gradient: bool = True
    """False where nothing before it is trained, so that its inputs need no gradient."""

    @property
    def forward_flops(self) -> int:
        """2 n inputs outputs."""
        return 2 * self.rows * self.inputs * self.outputs

    @property
    def flops(self) -> int:
        """Forward, gradient of the weights and, unless it is the first, gradient of the inputs."""
        return self.forward_flops * (3 if self.passes_gradient else 2)

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return (self.inputs + 1) * self.outputs


@dataclass(frozen=True)
class Counted:
    """A part whose operations were counted and not derived."""

    forward_flops: int
    flops: int
    """Of a forward and a backward pass."""
    parameters: int = 0

    def times(self, rows: int) -> Counted:
        """The same for so many rows instead of one."""
        return Counted(rows * self.forward_flops, rows * self.flops, self.parameters)


@dataclass(frozen=True)
class EncoderCost:
    """One encoder on `rows` inputs of a rank."""

    layers: Sequence[Layer | Counted]
    more_parameters: int
    """Those of no Linear."""
    saved_floats: int
    """Values kept for the backward pass, the inputs included."""
    frozen_parameters: int = 0
    """Weights without gradient and moments."""

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return sum(layer.parameters for layer in self.layers) + self.more_parameters

    @property
    def flops(self) -> int:
        """Operations of a forward and a backward pass."""
        return sum(layer.flops for layer in self.layers)

    @property
    def forward_flops(self) -> int:
        """Operations of a forward pass alone."""
        return sum(layer.forward_flops for layer in self.layers)
