"""Tables in text as programs write them, and what is wrong with others, by line."""

import numpy as np
import pytest

from swamp_dist.errors import UserError
from swamp_dist.sources.columns import delimited
from swamp_dist.sources.columns.column import Wanted
from swamp_dist.sources.columns.delimited import read_delimited

VECTOR = {"k": Wanted(("x*",), is_vector=True)}


def texts(path, name="caption"):
    return read_delimited(path, {"k": Wanted((name,))})["k"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("ending", "between"), [("csv", ","), ("tsv", "\t")])
def test_byte_order_marks_line_ends_and_quotes(tmp_path, end, ending, between):
    rows = [
        ["id", " caption "],
        ["1", '"a ""red"" cat, or two"'],
        ["2", f'"two{end}lines"'],
        ["", ""],
        ["3", "ö"],
    ]
    path = tmp_path / f"table.{ending}"
    path.write_bytes(("\ufeff" + "".join(between.join(row) + end for row in rows)).encode())
    column = texts(path)
    assert column.values == ['a "red" cat, or two', f"two{end}lines", "", "ö"]
    assert [column.place(row).rsplit(":")[-1] for row in range(4)] == ["2", "4", "5", "6"]


def test_number_columns_form_vectors_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x10,id,x2,y\n1,a,2,3\n4,b,,6e-1\n")
    column = read_delimited(path, VECTOR)["k"]
    np.testing.assert_array_equal(column.values, np.array([[1, 2], [4, np.nan]], np.float32))
    found = read_delimited(path, {"k": Wanted(("y", "x10"), True), "name": Wanted(("id",))})
    np.testing.assert_array_equal(found["k"].values, np.array([[3, 1], [0.6, 4]], np.float32))
    assert found["name"].values == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a line with the names"),
        (b"id,caption\n", "holds no rows below its header"),
        (b"id,captions\n1,a\n", r"no column 'caption'\. Did you mean 'captions'"),
        (b"caption,caption\n1,a\n", "2 columns are called 'caption'"),
        (b"id,caption\n1,a\n2,a, b\n", r"t\.csv:3: 3 values under 2 columns"),
        (b'id,caption\n1,"a\n2,b\n', "unexpected end of data"),
        (b'id,caption\n1,"a" b\n', r"t\.csv:2: ',' expected after"),
        (b"id,caption\n1,\xe9t\xe9\n", "not UTF-8 .byte 0xe9"),
        (b"id,caption\n1,a\0\n", r"t\.csv:2: a null character"),
        (b"caption\na\n\nb\n", r't\.csv:3: a blank line between rows; write ""'),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        texts(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("x*",), r"t\.csv:3, column 'x2': expected a number, found 'seven'"),
        (("z*",), r"no column 'z\*'"),
        (("x*", "x1"), "name a column twice"),
    ],
)
def test_vectors_need_numbers(tmp_path, names, message):
    (tmp_path / "t.csv").write_text("x1,x2\n1,2\n3,seven\n")
    with pytest.raises(UserError, match=message):
        read_delimited(tmp_path / "t.csv", {"k": Wanted(names, True)})


def test_a_line_without_end_is_not_read_on(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "MOST_LINE", 100)
    (tmp_path / "t.csv").write_text("caption\n" + "a" * 101)
    with pytest.raises(UserError, match=r"t\.csv:2: a line of more than 100 letters"):
        texts(tmp_path / "t.csv")
