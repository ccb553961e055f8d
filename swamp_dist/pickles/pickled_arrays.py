"""Arrays and their types as a pickle describes them, taken down before any of them is made.

No object of numpy receives anything from the file. What the file says of an array or its type is noted in
objects of this module, which take the state that a pickle gives and nothing else; real arrays are made from
the notes: from a kind, a size, a byte order and a shape that agree with the bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np

from swamp_dist.npy_files import elements

_CODE = re.compile(r"b1|[iu][1248]|f[248]|O8|[SU][1-9]\d{0,5}")
_TYPE_FLAGS: Collection[object] = [(), (0,), (1,), (0, 1), (1, 1)]
"""Whether the type is aligned and copied, which changes nothing here."""
_STATE_VERSION = 3
"""Of a type without metadata, in every numpy since 2006."""
_STATE_FLAGS: Mapping[str, tuple[int, ...]] = {"O": (63,), "U": (8, 0)}
"""By kind; 0 for all others. Python 2's numpy wrote texts with either."""
_MOST_AXES = 32


class Note:
    """Stands for an object of the file; no key of a dictionary, as an array is none."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __setstate__(self, state: object) -> None:
        raise UnpicklingError(f"{type(self).__name__}: a state where none belongs")


@dataclass
class Budget:
    """Bytes and items that a file may still have made by calls: no more than it has bytes.

    Without it a few bytes that name a list again and again have it copied each time.
    """

    left: int

    def take(self, count: int) -> None:
        """UnpicklingError where more is asked for than is left."""
        self.left -= count
        if self.left < 0:
            raise UnpicklingError("the calls in it make more than the file has bytes")


class ArrayClass(Note):
    """Stands for a class that is only ever an argument: numpy's array class."""

    __slots__ = ()


class ElementType(Note):
    """Stands for the type of an array's elements."""

    __slots__ = ("_code", "_order", "_stated")

    def __init__(self, code: object, *flags: object) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not _CODE.fullmatch(text) or flags not in _TYPE_FLAGS:
            raise UnpicklingError(f"the array type {shown(code)} is not plain")
        self._code, self._order, self._stated = text, "=", False

    def __setstate__(self, state: object) -> None:
        """(3, byte order, no parts, size and alignment or -1 each, flags), all as numpy writes them."""
        if self._stated or not isinstance(state, tuple) or len(state) != 8:
            raise UnpicklingError(f"the state of type {self._code} is not that of a plain one")
        if not isinstance(state[1], str | bytes) or not _same(state[2:5], (None, None, None)):
            raise UnpicklingError(f"type {self._code} has parts or no byte order")
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        kind = self.plain()
        if order not in (("|",) if kind.byteorder == "|" else ("<", ">")):
            raise UnpicklingError(f"type {self._code} in byte order {shown(order)}")
        sizes = (kind.itemsize, kind.alignment) if kind.kind in "SU" else (-1, -1)
        flags = _STATE_FLAGS.get(kind.kind, (0,))
        if not _same((state[0], *state[5:7]), (_STATE_VERSION, *sizes)) or state[7] not in flags:
            raise UnpicklingError(f"version, size or flags in the state of type {self._code} are not its own")
        self._order, self._stated = order, True

    @property
    def holds_objects(self) -> bool:
        """Whether elements are objects of the file and not bytes."""
        return self._code.startswith("O")

    def plain(self) -> np.dtype[Any]:
        """The type itself."""
        return np.dtype(object) if self.holds_objects else np.dtype(self._order + self._code)


class PickledArray(Note):
    """Stands for an array until its type, shape and bytes are known and agree."""

    __slots__ = ("_axes", "_budget", "_content", "_dtype", "_order", "_shape")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._content: bytes | bytearray | list[Any] | None = None
        self._axes: tuple[int, ...] | None = None

    def __setstate__(self, state: object) -> None:
        """(1, shape, type, whether in Fortran's order, bytes or a list of objects)."""
        if not isinstance(state, tuple) or len(state) != 5 or not _same(state[:1], (1,)):
            raise UnpicklingError("the state of an array is not that of a plain one")
        _, shape, kind, fortran, content = state
        if not isinstance(fortran, int):
            raise UnpicklingError(f"the order of an array's axes is {shown(fortran)}")
        self.fill(shape, kind, content, "F" if fortran else "C")

    def fill(
        self,
        shape: object,
        kind: object,
        content: object,
        order: Literal["C", "F"],
        axes: tuple[int, ...] | None = None,
    ) -> None:
        """Take what the array is to hold, if all of it agrees; `axes` are swapped at the end."""
        if self._content is not None or not isinstance(kind, ElementType):
            raise UnpicklingError(f"an array filled twice or of type {shown(kind)}")
        if not isinstance(shape, tuple) or len(shape) > _MOST_AXES or not all(map(is_size, shape)):
            raise UnpicklingError(f"an array of shape {shown(shape)}")
        if axes is not None and sorted(axes) != list(range(len(shape))):
            raise UnpicklingError(f"an array whose axes go as {shown(axes)}")
        if isinstance(content, str):
            content = content.encode("latin1")  # bytes of Python 2
        if not isinstance(content, list if kind.holds_objects else bytes | bytearray):
            raise UnpicklingError(f"an array of {kind.plain()} made of {type(content).__name__}")
        self._dtype = kind.plain()
        size = 1 if kind.holds_objects else self._dtype.itemsize
        if len(content) != math.prod(shape) * size:
            raise UnpicklingError(f"{len(content)} bytes or objects for an array {shape} of {self._dtype}")
        self._budget.take(len(content))
        self._shape, self._content, self._order, self._axes = shape, content, order, axes

    def plain(self, plain_objects: Callable[[list[Any]], list[Any]]) -> np.ndarray:
        """The array itself; `plain_objects` makes plain data of its objects."""
        content = self._content
        if content is None:
            raise UnpicklingError("an array without content")
        if isinstance(content, list):
            flat = np.empty(len(content), dtype=object)
            for number, value in enumerate(plain_objects(content)):
                flat[number] = value
        else:
            flat = elements(content, self._dtype).copy()  # a copy can be written to
        whole = flat.reshape(self._shape, order=self._order)
        return whole if self._axes is None else whole.transpose(self._axes)


def _same(found: tuple[Any, ...], wanted: tuple[object, ...]) -> bool:
    """Whether all values are equal and of equal class: True is no 1 here, and an object of the file is asked
    nothing.
    """
    return list(map(type, found)) == list(map(type, wanted)) and found == wanted


def is_size(number: object) -> bool:
    """Whether it is a whole number that may be the length of an axis, or the number of one."""
    return type(number) is int and 0 <= number < 2**48


def shown(value: object) -> str:
    """A value of the file in a message: short, whatever it is."""
    return repr(value)[:40] if isinstance(value, str | bytes | int) else f"a {type(value).__name__}"
