"""Keys and classes of entries from columns."""

from pathlib import Path

import numpy as np
import pytest

from swamp_dist.config import SplitSettings
from swamp_dist.errors import UserError
from swamp_dist.sources.columns.column import Column
from swamp_dist.sources.entry_columns import check_key_lengths, read_entries, read_labels

ALL = SplitSettings(shares={"train": 1.0})


def column(values) -> Column:
    lines = None if isinstance(values, np.ndarray) else range(2, 2 + len(values))
    return Column(Path("items.csv"), "c", values, lines)


@pytest.mark.parametrize(
    ("values", "numbers", "names"),
    [
        (["cat", "dog", "cat", "", "ant"], [0, 1, 0, -1, 2], ["cat", "dog", "cat", "", "ant"]),
        (["3", " 0", "", "-1"], [3, 0, -1, -1], []),
        (["3", "x"], [0, 1], ["3", "x"]),
        (["a", None], [0, -1], ["a", ""]),
        (np.array([2, 0, -1], np.int8), [2, 0, -1], []),
        (np.array([2.0, np.nan]), [2, -1], []),
    ],
)
def test_classes_are_numbers_or_names_in_the_order_in_which_they_appear(values, numbers, names):
    assert read_labels(column(values)) == (numbers, names)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        (["0", "-2"], "items.csv:3: .*found -2"),
        (["0", str(2**31)], "items.csv:3: .*found 2147483648"),
        (np.array([0.5]), "items.csv, 'c', row 0: .*found 0.5"),
        (np.array([True]), ".*found True"),
        (np.zeros((2, 2), int), r".*found int64 \(2, 2\)"),
        (np.array([np.inf]), ".*found inf"),
    ],
)
def test_numbers_that_are_no_classes_are_refused(values, place):
    with pytest.raises(UserError, match=f"source.label: {place}"):
        read_labels(column(values))


def test_entries_are_called_by_their_key_or_by_their_row():
    found = read_entries(2, {}, ALL, "source.a")
    assert (found.keys, found.labels, found.splits) == (["row0", "row1"], [-1, -1], {"train": [0, 1]})
    found = read_entries(2, {"key": column(["a/b.jpg", "c"])}, ALL, "source.a")
    assert (found.names, found.keys) == (["a/b.jpg", "c"], ["x_a-2fb-pjpg", "v_c"])
    assert read_entries(2, {"key": column(np.array([7, 5]))}, ALL, "source.a").keys == ["v_7", "v_5"]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("key", ["a", "b", "a"], r"items.csv:2 and items.csv:4: two entries have the key 'a' \(1 of 3 keys"),
        ("key", ["a", " ", "b"], r"source.key: items.csv:3: it is empty"),
        (
            "key",
            np.zeros(3),
            r"source.key: items.csv, 'c': expected a text or a whole number per row, found float64",
        ),
        ("label", ["0", "1"], r"source.label: items.csv, 'c' has 2 rows, source.a has 3"),
        ("group", ["0"] * 15, r"source.group: items.csv, 'c' has 15 rows, source.a has 3"),
    ],
)
def test_columns_that_do_not_fit_the_entries_are_refused(name, values, message):
    with pytest.raises(UserError, match=message):
        read_entries(3, {name: column(values)}, ALL, "source.a")


def test_keys_fit_into_the_name_of_a_file():
    check_key_lengths(["a" * 94], "a.npy")
    with pytest.raises(UserError, match=r"a\.npy has 101 letters; .* may have 100"):
        check_key_lengths(["b", "a" * 95], "a.npy")
