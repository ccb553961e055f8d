"""Arrays of numpy files: mapped where they can be, pickles and damage refused."""

import numpy as np
import pytest

from swamp_dist.errors import UserError
from swamp_dist.sources.columns.arrays import read_npy, read_npz
from swamp_dist.sources.columns.column import Wanted

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_npy_and_stored_npz_are_mapped_and_compressed_npz_is_read(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    np.savez(tmp_path / "stored.npz", one=ROWS, names=np.array(["x", "y", "z", "ö"]))
    np.savez_compressed(tmp_path / "packed.npz", one=np.asfortranarray(ROWS))
    one = {"k": Wanted(("one",))}
    found = [
        read_npy(tmp_path / "a.npy"),
        *(read_npz(tmp_path / f"{n}.npz", one)["k"] for n in ("stored", "packed")),
    ]
    for column in found:
        np.testing.assert_array_equal(column.values, ROWS)
    assert [isinstance(column.values, np.memmap) for column in found] == [True, True, False]
    names = read_npz(tmp_path / "stored.npz", {"k": Wanted(("names",))})["k"]
    assert names.values == ["x", "y", "z", "ö"]
    assert names.is_text
    assert names.place(2).endswith("stored.npz, 'names', row 2")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([None, {}]), "not a readable array"),
        (np.zeros((3, 2), complex), "expected numbers of at most 64 bits or texts, found complex128"),
        (np.array(["2020-01-01"], "M8[D]"), "expected numbers"),
        (np.float32(1), "expected rows, found an array of shape"),
        (np.zeros((0, 3)), "array"),
        (np.zeros((3, 0)), "array|no values"),
    ],
)
def test_arrays_that_hold_no_items_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", one=array)
    with pytest.raises(UserError, match=message):
        read_npy(tmp_path / "a.npy")
    with pytest.raises(UserError, match=r"a\.npz"):
        read_npz(tmp_path / "a.npz", {"k": Wanted(("one",))})


def test_damaged_files_and_wrong_names_are_told(tmp_path):
    np.savez(tmp_path / "a.npz", images=ROWS, captions=ROWS)
    with pytest.raises(
        UserError, match=r"no column 'image'\. Did you mean 'images'\?\nIts columns: images, captions"
    ):
        read_npz(tmp_path / "a.npz", {"k": Wanted(("image",))})
    whole = (tmp_path / "a.npz").read_bytes()
    for content in (whole[:-30], whole[:100], b"", b"PK\x03\x04" + bytes(100)):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(UserError, match="not a readable .npz"):
            read_npz(tmp_path / "a.npz", {"k": Wanted(("images",))})
    for place in (0, 26, 29):  # the header before a stored member: where its data begin
        (tmp_path / "a.npz").write_bytes(whole[:place] + b"\x7f" + whole[place + 1 :])
        with pytest.raises(UserError, match="not a readable .npz"):
            read_npz(tmp_path / "a.npz", {"k": Wanted(("images",))})


def test_an_array_that_unpacks_to_far_more_than_its_file_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", one=np.zeros((1 << 21, 10), np.float32))
    with pytest.raises(UserError, match="would unpack to 83,886,208 bytes"):
        read_npz(tmp_path / "bomb.npz", {"k": Wanted(("one",))})
