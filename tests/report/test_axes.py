"""Where values stand on an axis, and what is written beside them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.report.axes import is_wide, scale_of, tick_text


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20))
def test_every_value_stands_inside_a_linear_axis(values: list[float]) -> None:
    scale = scale_of(values)
    assert all(-1e-6 <= scale.place(value) <= 1 + 1e-6 for value in values)
    assert 2 <= len(scale.ticks) <= 9


@given(st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=20))
def test_every_value_stands_inside_a_logarithmic_axis(values: list[float]) -> None:
    scale = scale_of(values, is_log=True)
    assert all(-1e-6 <= scale.place(value) <= 1 + 1e-6 for value in values)
    assert all(scale.low <= tick <= scale.high for tick, _ in scale.ticks)


def test_ticks_are_round_numbers() -> None:
    assert [text for _, text in scale_of([0, 2000]).ticks] == ["0", "500", "1000", "1500", "2000"]
    assert [text for _, text in scale_of([0.0025, 5], is_log=True).ticks] == ["0.01", "0.1", "1"]
    assert scale_of([0.0025, 5], is_log=True).place(0.0025) == 0


@pytest.mark.parametrize(
    ("values", "wide"),
    [([1, 29], False), ([1, 30], True), ([0, 100], False), ([-1, 100], False), ([], False)],
)
def test_an_axis_is_logarithmic_for_positive_values_that_are_spread_wide(
    values: list[float], wide: bool
) -> None:
    assert is_wide(values) == wide


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.05, "0.05"),
        (0.00105, "1.05e-3"),
        (12500, "12.5k"),
        (3e6, "3M"),
        (-2e9, "-2G"),
        (9999, "9999"),
    ],
)
def test_numbers_take_few_characters(value: float, text: str) -> None:
    assert tick_text(value) == text
