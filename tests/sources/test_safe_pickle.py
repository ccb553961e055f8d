"""Pickles: everything plain is read as it was written, everything else is refused by name and not run."""

from __future__ import annotations

import builtins
import collections
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swamp_dist.records import UserError
from swamp_dist.sources.safe_pickle import read_pickle, read_tensors

PLAIN: dict[str, Any] = {
    "text": "Cr\u00e8me", "bytes": b"\xff\x00", "no bytes": b"", "number": 3.5, "big": 2**70, "none": None,
    "set": {1, 2}, "frozen": frozenset("ab"), "complex": 1 + 2j, "pair": (1, [True]),
    "ordered": collections.OrderedDict(a=1), "default": collections.defaultdict(list, a=[1]),
}  # fmt: skip
ARRAYS: dict[str, np.ndarray] = {
    "f2": np.arange(6, dtype="f2").reshape(2, 3), "big endian": np.arange(3, dtype=">f4"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "texts": np.array(["a", "bcd"]),
    "objects": np.array(["a", None], dtype=object), "none": np.zeros((0, 4)), "bool": np.array([True]),
}  # fmt: skip


def written(path: Path, value: object, protocol: int) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_any_protocol_come_back_equal(tmp_path: Path, protocol: int) -> None:
    assert read_pickle(written(tmp_path / "a.pkl", PLAIN, protocol)) == PLAIN
    back = read_pickle(written(tmp_path / "b.pkl", [ARRAYS, np.float32(1.5), np.str_("x")], protocol))
    for name, array in ARRAYS.items():
        assert back[0][name].dtype.newbyteorder("=") == array.dtype.newbyteorder("="), name
        np.testing.assert_array_equal(back[0][name], array, err_msg=name)
    assert (back[1], back[2]) == (np.float32(1.5), "x")


@pytest.mark.parametrize("core", ["core", "_core"])
def test_both_names_of_numpys_core_are_read(tmp_path: Path, core: str) -> None:
    payload = pickle.dumps(np.arange(3), 2).replace(b"numpy._core.", f"numpy.{core}.".encode())
    assert f"numpy.{core}.multiarray".encode() in payload
    (tmp_path / "a.pkl").write_bytes(payload)
    np.testing.assert_array_equal(read_pickle(tmp_path / "a.pkl"), np.arange(3))


def test_what_python_2_wrote_is_read(tmp_path: Path) -> None:
    """Bytes of a Python 2 protocol-2 pickle of [{'caption': 'Cr\\xe8me', '2d': array([1., 2.], float32)}]."""
    data = np.array([1, 2], "<f4").tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + struct.pack("<B", len(data)) + data + b"tb"
    )
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02]}(U\x07captionU\x05Cr\xe8meU\x022d" + array + b"ua.")
    clip = read_pickle(tmp_path / "a.pkl", "latin1")[0]
    assert clip["caption"] == "Cr\u00e8me"
    np.testing.assert_array_equal(clip["2d"], np.array([1, 2], "f4"))
    with pytest.raises(UserError, match=r"a\.pkl cannot be read as a pickle.*\n.*latin1"):
        read_pickle(tmp_path / "a.pkl", "ascii")


class Runs:
    """Its pickle calls a function with an argument when it is loaded."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "function", [os.mkdir, builtins.eval, builtins.getattr, builtins.bytearray, np.fromfile, io.open]
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_refused_by_name_and_not_run(tmp_path: Path, function: Any, protocol: int) -> None:
    made = tmp_path / "made"
    path = written(tmp_path / "a.pkl", [1, Runs(function, str(made))], protocol)
    with pytest.raises(UserError, match=rf"a\.pkl: refused, because it names \w+\.{function.__name__}"):
        read_pickle(path)
    assert not made.exists()


def test_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"refused, because it names pathlib"):
        read_pickle(written(tmp_path / "a.pkl", Path("x"), 4))


def test_admitted_names_cannot_be_misused(tmp_path: Path) -> None:
    """Neither huge arrays from nothing, nor objects made of raw bytes, nor bytes of a given size."""
    huge = b"\x80\x02cnumpy\nndarray\nJ\x00\x00\x00\x7f\x85R."
    objects = b"\x80\x02cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nU\x02O8\x85RU\x0812345678\x86R."
    structured = b"\x80\x02cnumpy\ndtype\n(U\x05f4,O8\x85R."
    for payload in (huge, objects, structured, b"\x80\x02c__builtin__\nbytes\nJ\x00\x00\x00\x7f\x85R."):
        (tmp_path / "a.pkl").write_bytes(payload)
        with pytest.raises(UserError, match="cannot be read as a pickle"):
            read_pickle(tmp_path / "a.pkl")
    asked = (
        b"\x80\x02cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\x00\x00\x00\x7f\x85U\x01b\x87R."
    )
    (tmp_path / "a.pkl").write_bytes(asked)
    assert read_pickle(tmp_path / "a.pkl").size == 0


@pytest.mark.parametrize("length", [0, 1, 20, 60])
def test_damaged_files_are_named(tmp_path: Path, length: int) -> None:
    whole = pickle.dumps([PLAIN, ARRAYS])
    (tmp_path / "a.pkl").write_bytes(whole[:length])
    with pytest.raises(UserError, match=r"a\.pkl cannot be read as a pickle"):
        read_pickle(tmp_path / "a.pkl")


def test_missing_and_too_large_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pkl: no such file"):
        read_pickle(tmp_path / "none.pkl")
    with (tmp_path / "large.pkl").open("wb") as file:
        file.truncate(65 * 2**30)  # sparse
    with pytest.raises(UserError, match=r"large\.pkl: \d+ bytes; pickles up to"):
        read_pickle(tmp_path / "large.pkl")


@pytest.mark.parametrize("new", [True, False])
def test_tensors_of_both_container_formats_are_read(tmp_path: Path, new: bool) -> None:
    tables = {"2d": {"a": torch.arange(3.0)}}
    torch.save(tables, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    torch.testing.assert_close(read_tensors(tmp_path / "a.pth"), tables)


def test_tensor_files_with_code_or_damage_are_refused(tmp_path: Path) -> None:
    torch.save({"2d": Runs(os.mkdir, str(tmp_path / "made"))}, tmp_path / "code.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "code.pth").read_bytes()[:100])
    for name in ("code", "cut"):
        with pytest.raises(UserError, match=rf"{name}\.pth cannot be read as tensors"):
            read_tensors(tmp_path / f"{name}.pth")
    assert not (tmp_path / "made").exists()
    with pytest.raises(UserError, match=r"none\.pth: no such file"):
        read_tensors(tmp_path / "none.pth")
