"""Feature files: good ones come as stored, every bad one is a BadEntry of a fixed kind with the file's
name."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from swamp_dist.errors import BadEntry
from swamp_dist.sources.feature_files import FeatureSpec, check_lengths, pool, read_pooled, read_rows
from tests.sources.raw_layouts import WIDTH, unit_rows

TWO = FeatureSpec("2D", WIDTH, 1.0, "float16")
THREE = FeatureSpec("3D", WIDTH, 1.5, "float16")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "abc.npy"


def kind_of(path: Path, spec: FeatureSpec = TWO, seconds: float | None = 40.0) -> str:
    with pytest.raises(BadEntry, match=r"^v_abc: ") as caught:
        read_rows(path, "v_abc", spec, seconds)
    assert str(path) in str(caught.value)
    return caught.value.kind


@pytest.mark.parametrize("stored", ["<f2", "<f4", ">f4"])
def test_rows_come_as_stored_or_exactly_widened(path: Path, stored: str) -> None:
    rows = unit_rows(0, 40, 1).astype(stored)
    np.save(path, rows)
    back = read_rows(path, "v_abc", dataclasses.replace(TWO, dtype="float32", unit_rows=True), 40.0)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, rows.astype(np.float32))


def test_fortran_order_and_npy_version_2_are_read(path: Path) -> None:
    rows = np.asfortranarray(unit_rows(0, 40, 1))
    with path.open("wb") as file:
        np.lib.format.write_array(file, rows, version=(2, 0))
    np.testing.assert_array_equal(read_rows(path, "v_abc", TWO, 40.0), rows)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (unit_rows(0, 40, 1)[:, :-1], "2D features of wrong shape"),
        (unit_rows(0, 40, 1)[0], "2D features of wrong shape"),
        (np.zeros((0, WIDTH), "f2"), "2D features of wrong shape"),
        (np.zeros((40, 1, WIDTH), "f2"), "2D features of wrong shape"),
        (np.zeros((), "f2"), "2D features of wrong shape"),
        (np.zeros((40, WIDTH), "f8"), "2D features of wrong dtype"),
        (np.zeros((40, WIDTH), "i2"), "2D features of wrong dtype"),
        (np.zeros((40, WIDTH), "f4"), "2D features of wrong dtype"),
        (np.where(np.eye(40, WIDTH), np.nan, 1).astype("f2"), "2D features not finite"),
        (np.where(np.eye(40, WIDTH), np.inf, 1).astype("f2"), "2D features not finite"),
        (unit_rows(0, 40, 1.5), "2D features at wrong rate"),
        (unit_rows(0, 20, 1), "2D features at wrong rate"),
    ],
)
def test_bad_arrays_are_named(path: Path, array: np.ndarray, kind: str) -> None:
    np.save(path, array)
    assert kind_of(path) == kind


def test_files_that_are_no_plain_arrays_are_named_and_not_run(path: Path) -> None:
    assert kind_of(path) == "no 2D features"
    assert kind_of(path, THREE) == "no 3D features"
    np.save(path, unit_rows(0, 40, 1))
    whole = path.read_bytes()
    for payload in (b"", b"junk", whole[:30], whole[:-1], whole + b"x", pickle.dumps(np.zeros(3))):
        path.write_bytes(payload)
        assert kind_of(path) == "2D features unreadable"
    np.save(path, np.array([[None] * WIDTH]), allow_pickle=True)
    assert kind_of(path) == "2D features of wrong dtype"


def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken(path: Path) -> None:
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (10**12, WIDTH)}
        np.lib.format.write_array_header_1_0(file, header)
    assert kind_of(path) == "2D features unreadable"


@pytest.mark.parametrize("seconds", [1.2, 10.0, 63.4, 391.7])
def test_row_counts_of_the_extractor_fit_and_others_do_not(path: Path, seconds: float) -> None:
    for spec, rows in (
        (TWO, round(seconds)),
        (TWO, math.ceil(seconds)),
        (THREE, math.ceil(24 * seconds / 16)),
    ):
        np.save(path, np.ones((rows, WIDTH), "f2"))
        assert len(read_rows(path, "v_abc", spec, seconds)) == rows
    exact = math.ceil(1.5 * seconds)
    most = math.floor(2 + 0.02 * exact)  # the stated tolerance
    for rows, good in ((exact + most, True), (exact - most, exact > most), (exact + most + 1, False)):
        if rows > 0:
            np.save(path, np.ones((rows, WIDTH), "f2"))
            if good:
                read_rows(path, "v_abc", THREE, seconds)
            else:
                assert kind_of(path, THREE, seconds) == "3D features at wrong rate"


def test_unit_rows_are_held_to_length_one_only_where_asked(path: Path) -> None:
    rows = unit_rows(0, 40, 1)
    rows[3] = 0  # a black frame
    strict = dataclasses.replace(TWO, unit_rows=True)
    np.save(path, rows)
    read_rows(path, "v_abc", strict)
    np.save(path, rows * 2)
    read_rows(path, "v_abc", TWO)
    assert kind_of(path, strict, None) == "2D features not of unit length"


def test_lengths_of_both_kinds_must_go_together() -> None:
    for two, three in ((40, 60), (40, 58), (39, 61), (1, 1), (390, 585)):
        check_lengths(np.ones((two, 2)), np.ones((three, 2)), "v_abc", (TWO, THREE), "abc.npy")
    for two, three in ((40, 40), (40, 30), (20, 60), (390, 390)):
        with pytest.raises(BadEntry, match="extract the shorter") as caught:
            check_lengths(np.ones((two, 2)), np.ones((three, 2)), "v_abc", (TWO, THREE), "abc.npy")
        assert caught.value.kind == "2D and 3D lengths disagree"


@pytest.mark.parametrize("read", [read_pooled])
def test_clip_files_are_vectors_or_pooled_over_all_rows(path: Path, read: Callable[..., np.ndarray]) -> None:
    rows = unit_rows(0, 7, 1)
    np.save(path, rows)
    np.testing.assert_array_equal(read(path, "v_abc", TWO), rows.max(axis=0))
    np.save(path, rows[2])
    np.testing.assert_array_equal(read(path, "v_abc", TWO), rows[2])


@pytest.mark.parametrize(
    ("start", "end", "rate", "rows"),
    [
        (2.0, 7.0, 1.0, range(2, 8)),
        (2.0, 7.0, 1.5, range(3, 11)),
        (2.9, 3.1, 1.0, range(2, 4)),
        (0, 0, 1, [0]),
    ],
)
def test_pooling_takes_the_rows_of_the_published_loader(
    start: float, end: float, rate: float, rows: list[int]
) -> None:
    values = np.random.default_rng(0).standard_normal((20, 3))
    pooled = pool(values, start, end, rate)
    assert pooled is not None
    np.testing.assert_array_equal(pooled, values[list(rows)].max(axis=0))
    assert pool(values, 21, 25, 1.0) is None
