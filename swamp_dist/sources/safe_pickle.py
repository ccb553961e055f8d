"""Pickles of plain data, read without running code: arrays, numbers, texts and containers of them.

Public sets come as pickles (caption.pickle, youcook_val.pkl), and a pickle can name any function. Here every
name that a file gives is looked up in one table; what the table hands out makes plain data only.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from swamp_dist.records import UserError

MAX_BYTES = 64 * 2**30
"""Largest file that is read; the caption pickle of HowTo100M has about 7 GB."""
_DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|O8|[SU]\d{1,6})")
_BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError,
    OverflowError, MemoryError, RecursionError,
)  # fmt: skip
"""What damaged or hostile bytes raise in the unpickler (ValueError includes the Unicode errors)."""


def read_pickle(path: Path, encoding: str = "latin1") -> Any:
    """The plain data in a pickle of any protocol, written by Python 2 or 3 with numpy 1 or 2.

    Texts that Python 2 wrote as bytes are decoded with `encoding`; arrays of Python 2 need `latin1`.

    Raises:
        UserError: the file is missing, too large or damaged, or names anything but plain data; the message
            gives the refused name.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a pickle")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: {path.stat().st_size} bytes; pickles up to {MAX_BYTES} bytes are read")
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, path, encoding).load()
    except _BROKEN as error:
        raise UserError(
            f"{path} cannot be read as a pickle: {type(error).__name__}: {error}\n"
            "Fix: copy the file again; where Python 2 wrote it, try pickle_encoding: latin1 or utf-8."
        ) from None


def read_tensors(path: Path) -> Any:
    """The containers of tensors in a file of torch.save, old or new container format, on the CPU.

    Raises:
        UserError: the file is missing or damaged, or holds more than tensors and containers.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected features saved by torch")
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (*_BROKEN, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{path} cannot be read as tensors: {reason}\n"
            "Expected a file of torch.save with dictionaries of tensors and nothing else (no arrays, no classes). "
            "Fix: save it again in that form."
        ) from None


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """What stands for the global in this reader; UserError for every name that is not plain data."""
        made = _NUMPY.get(name) if module in _NUMPY_MODULES else _BUILTIN.get((module, name))
        if made is None:
            raise UserError(
                f"{self._path}: refused, because it names {module}.{name}.\n"
                "Only arrays, numbers, texts and containers are read from a pickle: anything else may run code. "
                "Fix: get the file from its publisher again, or save it as plain lists and arrays."
            )
        return made


def _empty_array(_kind: object, _shape: object, _code: object) -> np.ndarray:
    """What numpy's `_reconstruct` makes before the state is set, whatever shape the file asks for."""
    return np.empty(0, dtype=np.int8)


def _dtype(code: object, *_flags: object) -> np.dtype[Any]:
    text = code.decode("ascii") if isinstance(code, bytes) else code
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise pickle.UnpicklingError(f"the array type {code!r} is not plain")
    return np.dtype(text, False, True)  # a copy: the state that follows sets its byte order


def _scalar(dtype: np.dtype[Any], payload: object = b"") -> Any:
    data = payload.encode("latin1") if isinstance(payload, str) else payload
    if not isinstance(data, bytes) or len(data) != dtype.itemsize:
        raise pickle.UnpicklingError(f"a scalar of {dtype} is malformed")
    return np.frombuffer(data, dtype)[0]  # itself refuses objects


def _from_buffer(data: Any, dtype: np.dtype[Any], shape: Any, order: Any, *_axis: object) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _bytes_of(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_NUMPY_MODULES = frozenset(
    {"numpy"} | {f"numpy.{core}.{part}" for core in ("core", "_core") for part in ("multiarray", "numeric")}
)
_NUMPY: Mapping[str, object] = {
    "_reconstruct": _empty_array,
    "_frombuffer": _from_buffer,
    "scalar": _scalar,
    "dtype": _dtype,
    "ndarray": "ndarray",  # a mere mark: an argument of _reconstruct, never called
}
_CONTAINERS: Mapping[str, Callable[..., object]] = {
    "set": set, "frozenset": frozenset, "list": list, "dict": dict, "complex": complex, "bytes": _no_bytes,
}  # fmt: skip
_BUILTIN: Mapping[tuple[str, str], object] = {
    **{(m, n): made for m in ("builtins", "__builtin__") for n, made in _CONTAINERS.items()},
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("_codecs", "encode"): _bytes_of,  # how protocol 2 writes bytes
}
