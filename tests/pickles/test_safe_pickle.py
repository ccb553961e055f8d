"""Pickles: everything plain is read as it was written, everything else is refused by name and not run."""

from __future__ import annotations

import builtins
import collections
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swamp_dist.errors import UserError
from swamp_dist.pickles.safe_pickle import read_pickle, read_tensors

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
    """Neither arrays from nothing, nor objects made of raw bytes, nor bytes of a given size."""
    huge = b"\x80\x02cnumpy\nndarray\nJ\x00\x00\x00\x7f\x85R."
    objects = b"\x80\x02cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nU\x02O8\x85RU\x0812345678\x86R."
    structured = b"\x80\x02cnumpy\ndtype\n(U\x05f4,O8\x85R."
    for payload in (huge, objects, structured, b"\x80\x02c__builtin__\nbytes\nJ\x00\x00\x00\x7f\x85R."):
        (tmp_path / "a.pkl").write_bytes(payload)
        with pytest.raises(UserError, match="cannot be read as a pickle"):
            read_pickle(tmp_path / "a.pkl")


def outcomes(folder: Path, *seed_and_count: int) -> list[tuple[str, str]]:
    """What becomes of the pickles in `folder`, or of mutations, in a child process; memory comes last."""
    script = Path(__file__).with_name("pickle_mutations.py")
    child = subprocess.run([sys.executable, script, folder, *map(str, seed_and_count)])
    lines = (folder / "outcomes").read_text().splitlines()
    assert child.returncode == 0, f"the child ended with {child.returncode} in {lines[-1]}"
    return [(name, found) for name, _, found in (line.partition("\t") for line in lines)]


ASKED = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


def array_of(
    code: bytes, type_state: object, shape: tuple[object, ...], content: object, head: int = 1
) -> bytes:
    """A pickle of one array with any state."""
    kind = b"cnumpy\ndtype\nU" + bytes([len(code)]) + code + b"K\x00K\x01\x87R" + inner(type_state) + b"b"
    state = b"(" + inner(head) + inner(shape) + kind + b"\x89" + inner(content) + b"t"
    return b"\x80\x02" + ASKED + state + b"b."


def inner(value: object) -> bytes:
    """The operations that make a value, without places of the memo."""
    if isinstance(value, tuple):
        return b"(" + b"".join(map(inner, value)) + b"t"
    if isinstance(value, bytes):
        return b"U" + bytes([len(value)]) + value
    if isinstance(value, list):
        return b"](" + b"".join(map(inner, value)) + b"e"
    return pickle.dumps(value, 2)[2:-1]


SOUND = (3, b"<", None, None, None, -1, -1, 0)


def typed(
    code: bytes, content: object, order: bytes, size: int = -1, alignment: int = -1, flags: int = 0
) -> bytes:
    """A pickle of an array (1,) with these numbers in the state of its type."""
    return array_of(code, (3, order, None, None, None, size, alignment, flags), (1,), content)


POINTER = b"\xef\xbe\xad\xde" * 2
SCALAR = b"\x80\x02cnumpy._core.multiarray\nscalar\n"
TO_ITSELF = b"q\x00(K\x01K\x01\x85cnumpy\ndtype\nU\x02O8\x85R"
OBJECTS = inner((3, b"|", None, None, None, -1, -1, 63))
STATES: dict[str, bytes] = {
    "objects without flags": typed(b"O8", POINTER, b"|"),
    "objects of bytes": typed(b"O8", POINTER, b"|", flags=63),
    "numbers with flags of objects": typed(b"f8", POINTER, b"<", flags=63),
    "numbers of another size": typed(b"f4", b"1234", b"<", size=4096, alignment=1),
    "texts of another size": typed(b"U1", b"1234", b"<", size=4096, alignment=4, flags=8),
    "parts": array_of(b"f4", (3, b"<", (b"f8", (2,)), None, None, -1, -1, 0), (1,), b"1234"),
    "names": array_of(b"f4", (3, b"<", None, (b"a",), None, -1, -1, 0), (1,), b"1234"),
    "an old version": array_of(b"f4", (0, *SOUND[1:]), (1,), b"1234"),
    "metadata": array_of(b"f4", (*SOUND, {"a": 1}), (1,), b"1234"),
    "two byte orders": typed(b"f4", b"1234", b"<>"),
    "no byte order": typed(b"f4", b"1234", b"|"),
    "a length below 0": array_of(b"f4", SOUND, (-1,), b"1234"),
    "a shape beyond its bytes": array_of(b"f4", SOUND, (2**40,), b"1234"),
    "a shape that overflows": array_of(b"f4", SOUND, (2**62, 2**62, 4), b""),
    "no number in the shape": array_of(b"f4", SOUND, (None,), b"1234"),
    "another version of the array": array_of(b"f4", SOUND, (1,), b"1234", 0),
    "letters that are none": typed(b"U1", b"\xff" * 4, b"<", 4, 4, 8),
    "truth that is none": typed(b"b1", b"\x02", b"|"),
    "no content": b"\x80\x02" + ASKED + b".",
    "a huge array of nothing": b"\x80\x02" + ASKED.replace(b"K\x00", b"J\x00\x00\x00\x7f") + b".",
    "an array in itself": b"\x80\x02" + ASKED + TO_ITSELF + OBJECTS + b"b\x89](h\x00etb.",
    "other defaults of a function": SCALAR + b"N}U\x0c__defaults__K\x07\x85s\x86b.",
    "a function as data": b"\x80\x02]cnumpy\ndtype\na.",
    "a state for a number": SCALAR + b"cnumpy\ndtype\nU\x02f4\x85RU\x041234\x86R" + inner((1, 2)) + b"b.",
}


def test_no_object_of_numpy_takes_a_state_from_the_file(tmp_path: Path) -> None:
    """Each of these is refused: numpy would follow pointers of the file, or write beyond its own memory."""
    (tmp_path / "sound.pkl").write_bytes(array_of(b"f4", SOUND, (1,), b"1234"))
    for name, payload in STATES.items():
        (tmp_path / f"{name}.pkl").write_bytes(payload)
    found = dict(outcomes(tmp_path))
    assert found.pop("sound") == "equal"
    assert int(found.pop("KiB")) < 2**16
    assert found == dict.fromkeys(STATES, "refused")


MANY = b"(" + b"N" * 100_000 + b"lq\x00"
TEXT = inner("x" * 100_000) + b"q\x000U\x06latin1q\x010"
AMPLIFIED: dict[str, bytes] = {
    "a far place of the memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "a far place in letters": b"Np2147483647\n.",
    "no place in letters": b"Npx\n.",
    "copies of a list": b"\x80\x02](" + MANY + b"0" + b"c__builtin__\nlist\nh\x00\x85R" * 5_000 + b"e.",
    "copies of bytes": b"\x80\x02](" + TEXT + b"c_codecs\nencode\nh\x00h\x01\x86R" * 5_000 + b"e.",
}


def test_a_few_bytes_cannot_ask_for_much_memory(tmp_path: Path) -> None:
    for name, payload in AMPLIFIED.items():
        (tmp_path / f"{name}.pkl").write_bytes(payload)
    found = dict(outcomes(tmp_path))
    assert int(found.pop("KiB")) < 2**16
    assert found == dict.fromkeys(AMPLIFIED, "refused")


def check_mutations(folder: Path, seed: int, count: int) -> None:
    """No crash, nothing but plain data, and never another value than numpy's own."""
    found = outcomes(folder, seed, count)
    (_, grown), kinds = found.pop(), Counter(outcome for _, outcome in found)
    assert len(found) == count
    assert kinds.keys() == {"refused", "equal"}, kinds
    assert kinds["equal"] > count / 20, "the mutations leave nothing readable"
    assert int(grown) < 2**16


def test_mutated_pickles_are_refused_or_equal(tmp_path: Path) -> None:
    check_mutations(tmp_path, 1, 300)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_mutated_pickles_are_refused_or_equal(tmp_path: Path) -> None:
    check_mutations(tmp_path, 2, 10_000)


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
    torch.save({"2d": {"a": torch.arange(3.0)}}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    place = re.search(rb"storage_?.*?X.\x00\x00\x00(\d+)", (tmp_path / "old.pth").read_bytes(), re.DOTALL)
    assert place is not None
    other = (tmp_path / "old.pth").read_bytes().replace(place[1], b"7" * len(place[1]), 1)
    (tmp_path / "no storage.pth").write_bytes(other)
    for name in ("code", "cut", "no storage"):
        with pytest.raises(UserError, match=rf"{name}\.pth cannot be read as tensors"):
            read_tensors(tmp_path / f"{name}.pth")
    assert not (tmp_path / "made").exists()
    with pytest.raises(UserError, match=r"none\.pth: no such file"):
        read_tensors(tmp_path / "none.pth")


def test_compressed_tensor_files_are_refused(tmp_path: Path) -> None:
    """torch would unpack them: 200 kB make 200 MB."""
    torch.save({"2d": {"a": torch.zeros(10_000)}}, tmp_path / "stored.pth")
    for name, method in (("packed", zipfile.ZIP_DEFLATED), ("stored again", zipfile.ZIP_STORED)):
        with (
            zipfile.ZipFile(tmp_path / "stored.pth") as old,
            zipfile.ZipFile(tmp_path / name, "w", method) as new,
        ):
            for part in old.infolist():
                new.writestr(part.filename, old.read(part))
    assert len(read_tensors(tmp_path / "stored again")["2d"]["a"]) == 10_000
    with pytest.raises(UserError, match="packed cannot be read as tensors: .* more memory"):
        read_tensors(tmp_path / "packed")
    whole = (tmp_path / "stored.pth").read_bytes()
    directory = whole.rindex(b"PK\x01\x02")
    (tmp_path / "no directory").write_bytes(whole[:directory])
    with pytest.raises(UserError, match="no directory cannot be read as tensors"):
        read_tensors(tmp_path / "no directory")
