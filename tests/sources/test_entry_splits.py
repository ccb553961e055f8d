"""Splits by a column or by shares: groups stay whole, and the order of rows does not matter."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.errors import UserError
from swamp_dist.sources.columns.column import Column
from swamp_dist.sources.entry_splits import check_groups, check_split_names, draw_splits

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def column(*values: str) -> Column:
    return Column(Path("items.csv"), "c", values, lines=range(2, 2 + len(values)))


def test_shares_are_met_and_depend_on_seed_and_key_alone():
    keys = [f"k{i}" for i in range(1000)]
    drawn = draw_splits(keys, SHARES, seed=0)
    assert Counter(drawn) == {"train": 700, "validation": 100, "test": 200}
    assert draw_splits(keys[::-1], SHARES, seed=0) == drawn[::-1]
    other = draw_splits(keys, SHARES, seed=1)
    assert 400 < sum(a != b for a, b in zip(drawn, other, strict=True)) < 520  # 1 - .49 - .01 - .04 of 1000


@given(sizes=st.lists(st.integers(1, 5), min_size=40, max_size=60), seed=st.integers(0, 9))
def test_no_group_is_in_two_splits_and_shares_are_near(sizes, seed):
    units = [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]
    drawn = draw_splits(units, {"train": 0.6, "test": 0.4}, seed)
    split_of = dict(zip(units, drawn, strict=True))
    assert drawn == [split_of[unit] for unit in units]
    assert abs(drawn.count("train") / len(units) - 0.6) <= 2.5 / len(units)  # half of the largest group


def test_a_share_that_gets_nothing_is_refused():
    with pytest.raises(
        UserError, match=r"split 'test' gets none of 6 entries in 2 groups at a share of 0.01"
    ):
        draw_splits(["a"] * 3 + ["b"] * 3, {"train": 0.99, "test": 0.01}, 0)
    with pytest.raises(UserError, match=r"'test' gets none of 3 entries at a share of 0.01\.\nRaise"):
        draw_splits(["a", "b", "c"], {"train": 0.99, "test": 0.01}, 0)


def test_split_names_are_those_expected():
    check_split_names(["train", "test"], column("train", "test"), ())
    check_split_names(["train", "test"], column("train", "test"), ("test", "train"))
    with pytest.raises(UserError, match=r"items.csv:3: split 'tset' is not among .*Did you mean 'test'"):
        check_split_names(["train", "tset"], column("train", "tset"), ("train", "test"))
    with pytest.raises(UserError, match=r"leaves split 'test' empty; it holds train 2"):
        check_split_names(["train", "train"], column("train", "train"), ("train", "test"))
    keys = [f"k{i}" for i in range(65)]
    with pytest.raises(UserError, match="holds 65 different names, for example 'k0'; a set has at most 64"):
        check_split_names(keys, column(*keys), ())


def test_a_group_in_two_splits_is_named_with_its_rows():
    groups, splits = ["v1", "v2", "v1", "v2"], ["train", "train", "test", "train"]
    with pytest.raises(
        UserError,
        match=r"'v1' is in the splits 'train' \(items.csv:2\) and 'test' \(items.csv:4\); 1 of 2 groups",
    ):
        check_groups(groups, splits, column(*groups))
    check_groups(groups, ["train", "test", "train", "test"], column(*groups))
