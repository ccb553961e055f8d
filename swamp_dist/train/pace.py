"""How long steps take: means over the steps since the last logged one.

A logged step takes longer than others, since it computes what the log alone shows, and the time of one step
says little on a machine that others share.
"""

from __future__ import annotations


class Pace:
    """Adds up the steps of a training on this rank."""

    def __init__(self, pairs: int) -> None:
        """`pairs` of a global batch."""
        self._pairs = pairs
        self._steps, self._step_seconds, self._data_seconds = 0, 0.0, 0.0

    def add(self, step_seconds: float, data_seconds: float) -> None:
        """One more step, and how long its batch was waited for."""
        self._steps += 1
        self._step_seconds += step_seconds
        self._data_seconds += data_seconds

    def figures(self) -> dict[str, float]:
        """By metric tag, of the steps since the last call; at least one."""
        steps, step_seconds, data_seconds = self._steps, self._step_seconds, self._data_seconds
        self._steps, self._step_seconds, self._data_seconds = 0, 0.0, 0.0
        return {
            "perf/step_seconds": step_seconds / steps,
            "perf/data_seconds": data_seconds / steps,
            "perf/pairs_per_second": steps * self._pairs / (step_seconds + data_seconds),
        }
