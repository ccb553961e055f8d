"""The share rule: at every slot each set has had its share of the slots so far to within one."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swamp_dist.data.shares import Slots


@st.composite
def shares(draw: st.DrawFn) -> list[Fraction]:
    """Of 1 to 7 sets, in hundredths."""
    cuts = draw(st.sets(st.integers(1, 99), max_size=6))
    edges = [0, *sorted(cuts), 100]
    return [Fraction(b - a, 100) for a, b in zip(edges[:-1], edges[1:], strict=True)]


@settings(max_examples=60, deadline=None)
@given(shares(), st.integers(0, 10**9))
def test_every_prefix_has_its_shares_to_within_one(given_shares: list[Fraction], start: int) -> None:
    slots, number = Slots(given_shares), np.arange(start, start + 250)
    expected = np.array([[float(share) for share in given_shares]]) * number[:, None]
    bound = 1 - 1 / max(2 * len(given_shares) - 2, 1)
    assert np.abs(slots.drawn(number) - expected).max() <= bound + 1e-6
    assert bound < 1


@settings(max_examples=60, deadline=None)
@given(shares(), st.integers(0, 500), st.integers(0, 300), st.integers(1, 40))
def test_what_was_drawn_is_what_a_count_of_the_slots_says(
    given_shares: list[Fraction], first: int, count: int, batch: int
) -> None:
    slots = Slots(given_shares)
    sets = slots.sets(first, first + count)
    counted = np.bincount(sets, minlength=len(given_shares))
    assert (slots.drawn(first + count) - slots.drawn(first)).tolist() == counted.tolist()
    taken = [np.bincount(slots.sets(s, s + batch), minlength=len(given_shares)) for s in
             range(0, 100 * batch, batch)]  # fmt: skip
    assert slots.most(batch) == np.max(taken, axis=0).tolist()  # 100 batches are all that there are


@pytest.mark.parametrize("length", [1, 7, 1000])
def test_one_set_has_every_slot(length: int) -> None:
    assert Slots([Fraction(1)]).sets(3, 3 + length).tolist() == [0] * length
    assert Slots([Fraction(1)]).most(length) == [length]
