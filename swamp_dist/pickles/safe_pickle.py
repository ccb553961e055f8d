"""Pickles of plain data, read without running code: arrays, numbers, texts and containers of them.

Public sets come as pickles (caption.pickle, youcook_val.pkl), and a pickle can name any function. Here its
operations are looked over first (`pickle_scan`), and every name that it gives is looked up in one table of
stand-ins (`plain_objects`), which make plain data only.
"""

from __future__ import annotations

import mmap
import pickle
import struct
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from swamp_dist.errors import UserError
from swamp_dist.pickles.pickle_scan import scan
from swamp_dist.pickles.pickled_arrays import Budget
from swamp_dist.pickles.plain_objects import Table

MAX_BYTES = 64 * 2**30
"""Largest file that is read; the caption pickle of HowTo100M has about 7 GB."""
_ZIP = b"PK\x03\x04"
_BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    ImportError, OverflowError, MemoryError, RecursionError,
)  # fmt: skip
"""What damaged or hostile bytes raise in the unpickler (ValueError includes the Unicode errors)."""


def read_pickle(path: Path, encoding: str = "latin1", records: Collection[str] = ()) -> Any:
    """The plain data in a pickle of any protocol, written by Python 2 or 3 with numpy 1 or 2.

    Ordered and default dictionaries come as plain ones, single numbers of numpy as those of Python. Texts
    that Python 2 wrote as bytes are decoded with `encoding`; arrays of Python 2 need `latin1`. Objects of
    classes called as `records` says, in any module, come as dictionaries of their attributes.

    Raises:
        UserError: the file is missing, too large or damaged, or names anything but plain data; the message
            gives the refused name.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a pickle")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"{path}: {size} bytes; pickles up to {MAX_BYTES} bytes are read")
    try:
        with path.open("rb") as file:
            if not size:
                raise EOFError("the file is empty")
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
                scan(data)
            table = Table(Budget(size), records)
            return table.plain(_PlainUnpickler(file, path, encoding, table).load())
    except _BROKEN as error:
        raise UserError(
            f"{path} cannot be read as a pickle: {type(error).__name__}: {error}\n"
            "Fix: copy the file again; where Python 2 wrote it, try pickle_encoding: latin1 or utf-8."
        ) from None


def read_tensors(path: Path) -> Any:
    """The containers of tensors in a file of torch.save, old or new container format, on the CPU.

    Raises:
        UserError: the file is missing or damaged, holds more than tensors and containers, or is compressed.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected features saved by torch")
    _check_container(path)
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (*_BROKEN, RuntimeError, AssertionError, struct.error) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{path} cannot be read as tensors: {reason}\n"
            "Expected a file of torch.save with dictionaries of tensors and nothing else (no arrays, no "
            "classes). Fix: save it again in that form."
        ) from None


def _check_container(path: Path) -> None:
    """Refuse a zip container whose parts are more than its bytes: torch writes them as they are, and would
    unpack a thousand bytes from one.
    """
    with path.open("rb") as file:
        if file.read(4) != _ZIP:
            return
    try:
        with zipfile.ZipFile(path) as container:
            parts = container.infolist()
    except (*_BROKEN, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{path} cannot be read as tensors: {error}\nFix: copy the file again.") from None
    packed = [part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED]
    if packed or sum(part.file_size for part in parts) > path.stat().st_size:
        raise UserError(
            f"{path} cannot be read as tensors: {packed[0] if packed else 'its parts'} would take more "
            "memory than the file has bytes.\nFix: save it again with torch.save, which does not compress."
        )


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path, encoding: str, table: Table) -> None:
        super().__init__(file, encoding=encoding)
        self._path = path
        self._table = table

    def find_class(self, module: str, name: str) -> Any:
        """What stands for the global in this reader; UserError for every name that is not plain data."""
        found = self._table.find(module, name)
        if found is None:
            raise UserError(
                f"{self._path}: refused, because it names {module}.{name}.\n"
                "Only arrays, numbers, texts and containers are read from a pickle: anything else may run "
                "code. Fix: get the file from its publisher again, or save it as plain lists and arrays."
            )
        return found
