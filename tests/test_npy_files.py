"""Headers of npy files: read as numpy reads them, and a ValueError for any other bytes."""

import io
import random

import numpy as np
import pytest

from swamp_dist.npy_files import NpyRows, elements, map_npy, read_npy_header

TYPES = ("f4", ">i8", "f2", "U3", [("key", "S4"), ("size", "<i8")])


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("kind", TYPES)
def test_headers_and_arrays_are_those_of_numpy(tmp_path, kind):
    for array in (np.zeros((2, 3), kind), np.asfortranarray(np.zeros((3, 4), kind))):
        path = tmp_path / "a.npy"
        path.write_bytes(_npy(array))
        with path.open("rb") as file:
            header = read_npy_header(file)
            assert file.tell() + header.bytes == path.stat().st_size
        assert (header.shape, header.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(map_npy(path), array)
        with pytest.raises(ValueError, match="read-only"):
            map_npy(path)[0, 0] = array[0, 0]


@pytest.mark.filterwarnings("ignore:Reading .*additional header parsing")  # as Python 2 wrote them
def test_any_other_bytes_are_a_value_error():
    """numpy's parser raises errors of several classes at these."""
    seen = set()
    for number in range(1500):
        rng = random.Random(number)
        data = bytearray(_npy(np.zeros((2, 3), rng.choice(TYPES))))
        for _ in range(rng.choice((1, 2, 4))):
            place = rng.randrange(128)
            data[place : place + rng.choice((0, 1, 1, 3))] = rng.choice(
                (b"", b"(", b"'", b"\n", b"\0", b"9" * 30, bytes([rng.randrange(256)]))
            )
        try:
            read_npy_header(io.BytesIO(data))
            seen.add("read")
        except ValueError:
            seen.add("refused")
    assert seen == {"read", "refused"}


def test_files_that_are_no_plain_arrays_are_not_mapped(tmp_path):
    path, whole = tmp_path / "a.npy", _npy(np.arange(6.0))
    objects = io.BytesIO()
    np.save(objects, np.array([None, 1]), allow_pickle=True)
    for payload in (b"", whole[:-1], whole + b"x", objects.getvalue(), b"PK\x03\x04" + bytes(40)):
        path.write_bytes(payload)
        with pytest.raises(ValueError, match="."):
            map_npy(path)


def test_elements_that_numpy_could_not_use_are_refused():
    assert elements(b"\x01\x00", np.dtype("?")).tolist() == [True, False]
    assert elements("ab".encode("utf-32-be"), np.dtype(">U1")).tolist() == ["a", "b"]
    assert elements(b"", np.dtype("f4")).shape == (0,)
    for data, kind in ((b"\x02", "?"), (b"\xff" * 4, "<U1"), (b"\0\0\x11\0", "<U1"), (b"abc", "f4")):
        with pytest.raises(ValueError, match="."):
            elements(data, np.dtype(kind))


def test_rows_are_read_one_by_one_and_are_copies(tmp_path):
    array = np.arange(24, dtype=">f4").reshape(4, 3, 2)
    path = tmp_path / "a.npy"
    path.write_bytes(_npy(array))
    rows = NpyRows(path)
    assert (len(rows), rows.shape, rows.dtype) == (4, array.shape, array.dtype)
    for row in (3, 0, 2):
        np.testing.assert_array_equal(rows[row], array[row])
    rows[1][:] = 0
    np.testing.assert_array_equal(rows[1], array[1])


@pytest.mark.parametrize(
    "content",
    [
        _npy(np.float32(1)),
        _npy(np.zeros((3, 4), order="F")),
        _npy(np.zeros(3))[:-1],
        _npy(np.zeros(3)) + b"x",
    ],
)
def test_files_without_rows_of_their_own_are_refused(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match="float"):
        NpyRows(tmp_path / "a.npy")
