"""Columns of parquet files, and what is said where pyarrow is not installed."""

import sys

import numpy as np
import pytest

from swamp_dist.errors import UserError
from swamp_dist.sources.columns import parquet
from swamp_dist.sources.columns.column import Wanted
from swamp_dist.sources.columns.parquet import read_parquet

arrow = pytest.importorskip("pyarrow", reason="parquet files need the extra swamp-dist[parquet]")

ROWS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


def write(path, **columns):
    from pyarrow import parquet as files

    files.write_table(arrow.table(columns), path)
    return path


def read(path, *names, is_vector=False):
    return read_parquet(path, {"k": Wanted(names, is_vector)})["k"]


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
def test_lists_of_numbers_are_rows(tmp_path, kind):
    types = {
        "list": arrow.list_(arrow.float32()), "large_list": arrow.large_list(arrow.float64()),
        "fixed": arrow.list_(arrow.float16(), 2),
    }  # fmt: skip
    values = [[np.float16(x) for x in row] for row in ROWS] if kind == "fixed" else ROWS
    path = write(tmp_path / "t.parquet", x=arrow.array([values[0], None, values[2]], types[kind]))
    found = read(path, "x").values
    np.testing.assert_array_equal(found, [ROWS[0], [np.nan, np.nan], ROWS[2]])
    whole = read(write(tmp_path / "u.parquet", x=arrow.array(values, types[kind])), "x").values
    np.testing.assert_array_equal(whole, ROWS)


def test_texts_numbers_and_several_columns(tmp_path):
    text = arrow.array(["a", None, "a"]).dictionary_encode()
    path = write(tmp_path / "t.parquet", text=text, n=[1, 2, 3], x2=[0.5, None, 1.5], x1=[1, 2, 3])
    assert read(path, "text").values == ["a", None, "a"]
    assert read(path, "n").values.tolist() == [1, 2, 3]
    vectors = read(path, "x*", is_vector=True).values
    np.testing.assert_array_equal(vectors, [[0.5, 1], [np.nan, 2], [1.5, 3]])


def test_many_batches_are_one_column(tmp_path):
    rows = np.arange(10_000, dtype=np.float32).reshape(5000, 2)
    path = write(tmp_path / "t.parquet", x=arrow.array(rows.tolist()))
    np.testing.assert_array_equal(read(path, "x").values, rows)


@pytest.mark.parametrize(
    ("column", "name", "message"),
    [
        ([[1.0], [1.0, 2.0]], "x", r"row 1, column 'x': 2 numbers, the rows before it have 1"),
        ([["a"], ["b"]], "x", "expected numbers or texts, found string"),
        ([{"p": 1}, {"p": 2}], "x", "expected numbers or texts, found struct"),
        ([None, None], "y", r"no column 'y'"),
        ([], "x", "holds no rows"),
    ],
)
def test_what_is_no_column_of_items_is_refused(tmp_path, column, name, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "t.parquet", x=column), name)


def test_other_files_and_large_ones_are_refused(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    with pytest.raises(UserError, match="not a readable parquet file"):
        read(tmp_path / "t.parquet", "x")
    monkeypatch.setattr(parquet, "UNPACKED_SLACK", 1000)
    path = write(tmp_path / "bomb.parquet", x=arrow.array(["a" * 1000] * 5000))
    with pytest.raises(UserError, match=r"bomb.parquet: its columns unpack to more than"):
        read(path, "x")


def test_without_pyarrow_the_fix_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        UserError, match=r"need pyarrow, which is not installed.\nRun `pip install 'swamp-dist\[parquet\]'`"
    ):
        read(tmp_path / "t.parquet", "x")
