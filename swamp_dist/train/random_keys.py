"""What a step's dropout is drawn from: keyed, not carried, so a resume or a validation changes no mask.

The keys are part of what a run computes: with other factors a resumed run would draw other masks.
"""

from __future__ import annotations

import torch

_STEPS = 1_000_003
"""More than the steps of most runs, and a prime: seeds that differ by a little share no key before step
1,000,003."""
_RANKS = 65_537
"""The first prime above 2^16, so more than any number of ranks: a step's keys end where the next step's
begin."""
_MICRO_BATCHES = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, odd: no two micro-batches of a step share a key, nor its lower half."""


def step_random_key(seed: int, step: int, rank: int) -> int:
    """The key of one rank's step: its own for every (seed, step, rank), not negative."""
    return (seed * _STEPS + step) * _RANKS + rank


def micro_batch_random_key(step_key: int, micro_batch: int) -> int:
    """The key of one micro-batch of a step, in the range of torch's seeds; that of micro-batch 0 is the
    step's own."""
    return (step_key + micro_batch * _MICRO_BATCHES) % 2**63


def seed_dropout(key: int, device: torch.device) -> None:
    """Start the generators that masks are drawn from, of the CPU and of `device`, as `torch.manual_seed`.

    That one also visits every kind of device that torch knows, which takes longer than a small layer.
    """
    torch.default_generator.manual_seed(key)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(key)
