"""Vectors of classes by their names: means of words, rows of a table, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.errors import UserError
from swamp_dist.sources.class_names import normal_name
from swamp_dist.sources.class_words import check_finite, mean_vectors, table_rows, unit_rows, words_of_class


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    words = {
        "car": [1, 0, 2],
        "sedan": [3, 2, 0],
        "Eiffel": [0, 0, 5],
        "jack": [4, 0, 0],
        "lantern": [0, 2, 0],
    }
    path = tmp_path / "vectors.txt"
    path.write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in words.items()))
    return path


def write_table(folder: Path, names: list[str], rows: np.ndarray) -> tuple[Path, Path]:
    np.save(folder / "labels.npy", rows)
    (folder / "vocab.pkl").write_bytes(pickle.dumps(names, protocol=2))
    return folder / "labels.npy", folder / "vocab.pkl"


def test_a_name_of_several_words_has_the_mean_of_those_that_have_a_vector(vectors: Path) -> None:
    rows, _ = mean_vectors(["car_(sedan)", "car", "jack_o_lantern"], {}, vectors)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, [[2, 1, 1], [1, 0, 2], [2, 1, 0]])


def test_other_words_may_stand_for_a_name_in_their_case(vectors: Path) -> None:
    with pytest.raises(UserError, match=r"no vector for 2 of 3 classes: eiffel, bat\.") as raised:
        mean_vectors(["eiffel", "car", "bat"], {}, vectors)
    assert "class_vectors.words: {eiffel: OTHER WORDS}" in str(raised.value)
    rows, _ = mean_vectors(["eiffel", "bat"], {"eiffel": "Eiffel", "bat": "car car"}, vectors)
    np.testing.assert_array_equal(rows, [[0, 0, 5], [1, 0, 2]])


def test_rows_of_a_table_are_found_by_name_in_any_spelling(tmp_path: Path) -> None:
    table = np.array([[1, 2], [3, 4], [1, 2]], dtype=np.float64)
    files = write_table(tmp_path, ["hot-air_balloon", "Wine bottle", "hot air balloon"], table)
    rows = table_rows(["wine_bottle", "hot_air_balloon", "flagon"], {"flagon": "wine-bottle"}, *files)
    np.testing.assert_array_equal(rows, [[3, 4], [1, 2], [3, 4]])
    with pytest.raises(UserError, match=r"vocab.pkl has no vector for 1 of 2 classes: cup\."):
        table_rows(["cup", "wine_bottle"], {}, *files)
    (tmp_path / "vocab.txt").write_text("a\nb\nc\n")
    rows = table_rows(["b"], {}, files[0], tmp_path / "vocab.txt")
    np.testing.assert_array_equal(rows, [[3, 4]])


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    files = write_table(tmp_path, ["cup", "Cup"], np.eye(2))
    with pytest.raises(UserError, match="rows 0 and 1 are both called 'cup', and differ"):
        table_rows(["cup"], {}, *files)
    files = write_table(tmp_path, ["cup"], np.eye(2))
    with pytest.raises(UserError, match=r"for each of the 1 names of .*; found float64 \(2, 2\)"):
        table_rows(["cup"], {}, *files)
    (tmp_path / "vocab.pkl").write_bytes(pickle.dumps({"cup": 0}, protocol=2))
    with pytest.raises(UserError, match="expected a list of names, found dict"):
        table_rows(["cup"], {}, *files)
    with pytest.raises(UserError, match=r"gone.npy: cannot be read as a table of vectors"):
        table_rows(["a"], {}, tmp_path / "gone.npy", write_table(tmp_path, ["a"], np.eye(1))[1])


def test_a_row_of_zeros_has_no_direction() -> None:
    np.testing.assert_allclose(unit_rows(["a"], np.array([[3, 4]], np.float32), "v.txt"), [[0.6, 0.8]])
    with pytest.raises(UserError, match=r"v.txt: the vector of b is zero .*\nFix: .*words: \{b: OTHER W"):
        unit_rows(["a", "b"], np.array([[3, 4], [0, 0]], np.float32), "v.txt")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_number_that_is_not_finite_is_named_with_its_class(tmp_path: Path, value: float) -> None:
    files = write_table(tmp_path, ["dog", "Dog", "cow"], np.array([[value, 1], [value, 1], [2, 3]]))
    check_finite(["cow"], table_rows(["cow"], {}, *files), "labels.npy")
    rows = table_rows(["cow", "dog"], {}, *files)
    with pytest.raises(UserError, match=r"labels.npy: the vector of dog holds .* not finite .*\nFix: mend"):
        check_finite(["cow", "dog"], rows, "labels.npy")


@given(st.text(alphabet="aB-_ ()9", max_size=12))
def test_a_normal_name_is_normal(name: str) -> None:
    once = normal_name(name)
    assert normal_name(once) == once
    assert " " not in once
    assert "-" not in once
    assert [word.lower() for word in words_of_class(name)] == words_of_class(once)
