"""Seconds per step between logged ones."""

from __future__ import annotations

import pytest

from swamp_dist.train.pace import Pace


def test_figures_are_means_of_the_steps_since_the_last_ones() -> None:
    pace = Pace(pairs=64)
    for step_seconds, data_seconds in ((0.5, 0.25), (0.75, 0.0), (1.0, 0.5)):
        pace.add(step_seconds, data_seconds)
    assert pace.figures() == pytest.approx(
        {"perf/step_seconds": 0.75, "perf/data_seconds": 0.25, "perf/pairs_per_second": 64.0}
    )
    pace.add(2.0, 2.0)
    assert pace.figures() == pytest.approx(
        {"perf/step_seconds": 2.0, "perf/data_seconds": 2.0, "perf/pairs_per_second": 16.0}
    )
