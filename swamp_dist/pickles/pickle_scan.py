"""A look at the operations of a pickle before anything is made of them.

Python's unpickler takes some numbers of a file at their word: ten bytes that name place 4,000,000,000 of its
memo take 64 GB. Here every operation is met once, in order, and nothing is made.
"""

from __future__ import annotations

import mmap
import pickle
import re
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import TypeAlias

View: TypeAlias = bytes | mmap.mmap

_NO_ARGUMENT = (
    pickle.MARK + pickle.POP + pickle.POP_MARK + pickle.DUP + pickle.NONE + pickle.REDUCE + pickle.APPEND
    + pickle.BUILD + pickle.DICT + pickle.EMPTY_DICT + pickle.APPENDS + pickle.LIST + pickle.EMPTY_LIST
    + pickle.OBJ + pickle.SETITEM + pickle.TUPLE + pickle.EMPTY_TUPLE + pickle.SETITEMS + pickle.NEWOBJ
    + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3 + pickle.NEWTRUE + pickle.NEWFALSE + pickle.EMPTY_SET
    + pickle.ADDITEMS + pickle.FROZENSET + pickle.NEWOBJ_EX + pickle.STACK_GLOBAL + pickle.MEMOIZE
)  # fmt: skip
_OF_FIXED_SIZE: Mapping[int, bytes] = {
    0: _NO_ARGUMENT,
    1: pickle.BININT1 + pickle.BINGET + pickle.BINPUT + pickle.PROTO,
    2: pickle.BININT2,
    4: pickle.BININT + pickle.LONG_BINGET,
    8: pickle.BINFLOAT + pickle.FRAME,
}
_LENGTH_BYTES: Mapping[int, int] = {
    code[0]: size
    for size, codes in {
        1: (pickle.SHORT_BINSTRING, pickle.SHORT_BINBYTES, pickle.SHORT_BINUNICODE, pickle.LONG1),
        4: (pickle.BINUNICODE, pickle.BINBYTES, pickle.BINSTRING, pickle.LONG4),
        8: (pickle.BINUNICODE8, pickle.BINBYTES8, pickle.BYTEARRAY8),
    }.items()
    for code in codes
}
"""Operations whose argument has its length before it, in so many bytes."""
_LINES: Mapping[int, int] = {
    **dict.fromkeys(pickle.FLOAT + pickle.INT + pickle.LONG + pickle.STRING + pickle.UNICODE + pickle.GET, 1),
    **dict.fromkeys(pickle.GLOBAL + pickle.INST, 2),
}
"""Operations whose argument is so many lines."""
_PUT, _LONG_PUT, _STOP = pickle.PUT[0], pickle.LONG_BINPUT[0], pickle.STOP[0]
_LONGEST_NUMBER = 20
"""Digits of a place of the memo."""


def scan(data: View) -> None:
    """Meet every operation of a pickle up to its end.

    Writers number the places of the memo as they use them, and use one for nothing of less than a byte. So a
    place beyond the size of the file is no writer's work, and the memo of all others grows with the file.

    Raises:
        UnpicklingError: the pickle ends inside an operation, has an unknown one or one that reaches outside
            the file, or puts something in a place of the memo that no writer would.
    """
    run, size, at = _run_of(len(data)), len(data), 0
    while True:
        at = run.match(data, at).end()  # type: ignore[union-attr]  # matches where there is no operation, too
        if at >= size:
            raise UnpicklingError(f"the file ends at byte {size}, before the end of the pickle")
        operation = data[at]
        if operation in _LENGTH_BYTES:
            start = at + 1 + _LENGTH_BYTES[operation]
            end = start + int.from_bytes(data[at + 1 : start], "little")
        elif operation == _STOP:
            return
        else:
            end = _end_of(data, at, operation)
        if end > size:
            raise UnpicklingError(f"byte {at}: the argument of the operation reaches outside the file")
        at = end


def _run_of(size: int) -> re.Pattern[bytes]:
    """Operations of a fixed size, as many as follow each other.

    They put nothing in a place of the memo beyond 255, or, in a file of more than 16 MiB, beyond its size.
    """
    codes = [b"[" + re.escape(codes) + b"].{%d}" % length for length, codes in _OF_FIXED_SIZE.items()]
    if size >> 24:
        highest = min(size >> 24, 256) - 1
        codes.append(re.escape(pickle.LONG_BINPUT) + b"...[\\x00-" + re.escape(bytes([highest])) + b"]")
    return re.compile(b"(?:%s)*+" % b"|".join(codes), re.DOTALL)


def _end_of(data: View, at: int, operation: int) -> int:
    """Where the rarer operation at byte `at` ends; behind the file where it does not end in it."""
    start = at + 1
    if operation == _LONG_PUT:
        _check_place(int.from_bytes(data[start : start + 4], "little"), len(data), at)
        return start + 4
    if operation == _PUT:
        end = data.find(b"\n", start) + 1 or len(data) + 1
        digits = data[start : min(end, start + _LONGEST_NUMBER)].strip()
        if not digits.isdigit():
            raise UnpicklingError(f"byte {at}: no place of the memo")
        _check_place(int(digits), len(data), at)
        return end
    if operation not in _LINES:
        raise UnpicklingError(f"byte {at}: an operation that is unknown, cut off or not of plain data")
    end = start
    for _ in range(_LINES[operation]):
        end = data.find(b"\n", end) + 1 or len(data) + 1
    return end


def _check_place(place: int, size: int, at: int) -> None:
    if place > size:
        raise UnpicklingError(f"byte {at}: place {place} of the memo, more than the file has bytes ({size})")
