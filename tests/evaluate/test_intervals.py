"""Student's t against scipy.stats and against printed tables."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from swamp_dist.evaluate.intervals import summarize, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 12, 30, 99, 1000, 100_000])
@pytest.mark.parametrize("probability", [0.001, 0.025, 0.3, 0.5, 0.75, 0.9, 0.975, 0.9995])
def test_quantiles_equal_scipy(probability: float, freedom: int) -> None:
    expected = stats.t.ppf(probability, freedom)
    assert t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_quantiles_are_those_of_published_tables() -> None:
    published = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 29: 2.045, 120: 1.980}
    assert {freedom: round(t_quantile(0.975, freedom), 3) for freedom in published} == published


def test_interval_of_a_mean_equals_scipy() -> None:
    values = [1.9, 4.7, 1.5, 4.6, 1.3]
    found = summarize(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.sd, found.n) == pytest.approx((np.mean(values), np.std(values, ddof=1), 5))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_one_value_has_no_deviation_and_no_interval() -> None:
    found = summarize([3.0])
    assert (found.mean, found.n, found.sd, found.low, found.high) == (3.0, 1, None, None, None)
