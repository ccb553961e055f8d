"""Axes of a chart: where values stand between 0 and 1, and what is written beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDE = 30
"""Positive values whose largest is this many times the smallest stand on a logarithmic axis."""
_TICKS = 5


@dataclass(frozen=True)
class Scale:
    """One axis."""

    low: float
    high: float
    is_log: bool
    ticks: tuple[tuple[float, str], ...]
    """Value and what is written there."""

    def place(self, value: float) -> float:
        """Between 0 (low) and 1 (high)."""
        low, high, at = (math.log10(x) if self.is_log else x for x in (self.low, self.high, value))
        return (at - low) / (high - low)


def is_wide(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows more of the values than a linear one."""
    return bool(values) and min(values) > 0 and max(values) >= WIDE * min(values)


def scale_of(values: Sequence[float], is_log: bool = False) -> Scale:
    """An axis that holds all values, at least one; with `is_log` they are positive."""
    low, high = min(values), max(values)
    if is_log:
        high = high if high > low else low * 10
        return Scale(low, high, True, tuple((tick, tick_text(tick)) for tick in _log_ticks(low, high)))
    if high == low:
        room = abs(low) * 0.1 or 1.0
        low, high = low - room, high + room
    step = _nice_step((high - low) / _TICKS)
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = tuple((k * step, tick_text(k * step)) for k in range(first, last + 1))
    return Scale(first * step, last * step, False, ticks)


def tick_text(value: float) -> str:
    """A number in few characters: 20k for 20,000, 1.05e-3 for 0.00105."""
    if abs(value) < 1e-12:
        return "0"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    if abs(value) >= 0.01:
        return f"{value:.4g}"
    digits, power = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def _nice_step(rough: float) -> float:
    size = 10.0 ** math.floor(math.log10(rough))
    return next((factor * size for factor in (1, 2, 5) if factor * size >= rough * (1 - 1e-9)), 10 * size)


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside the axis, or 1, 2 and 5 times them where there are few; at most some."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    whole = [10.0**power for power in powers if low <= 10.0**power <= high]
    if len(whole) >= 3:
        return whole[:: math.ceil(len(whole) / _TICKS)]
    return [f * 10.0**power for power in powers for f in (1, 2, 5) if low <= f * 10.0**power <= high]
