"""What stands for the classes and functions that a pickle of plain data names.

Every one of them can be called and makes plain data, or notes of arrays (`pickled_arrays`); nothing that the
file does changes them. `Table.plain` puts arrays in the place of the notes once everything is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import Any, NoReturn

import numpy as np

from swamp_dist.pickles.pickled_arrays import (
    ArrayClass,
    Budget,
    ElementType,
    Note,
    PickledArray,
    is_size,
    shown,
)


class _Maker(Note):
    """Stands for a function or class of the file: can be called, and changed by nothing."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)


class Attributes(Note):
    """Stands for an object of a class that is read as the dictionary of its attributes.

    The class itself is what a pickle's name stands for, since Python makes objects of classes alone. It can
    be called without arguments, and has nothing that a file could set.
    """

    __slots__ = ("state",)
    state: dict[Any, Any] | None

    def __new__(cls) -> Attributes:
        """Without a state; a pickle makes an object without calling `__init__`."""
        made = super().__new__(cls)
        made.state = None
        return made

    def __setstate__(self, state: object) -> None:
        """A dictionary, once."""
        if not isinstance(state, dict) or self.state is not None:
            raise UnpicklingError("the state of an object that is not one dictionary of attributes")
        self.state = state


@dataclass
class Table:
    """What every name stands for while one file is read, and the plain data in the end."""

    budget: Budget
    records: Collection[str] = ()
    """Names of classes, in any module, whose objects come as dictionaries of their attributes."""
    used: bool = False
    """Whether a name was looked up: the result may hold notes."""
    _names: Mapping[tuple[str, str], Note] = field(init=False)

    def __post_init__(self) -> None:
        self._names = self._stand_ins()

    def find(self, module: str, name: str) -> Note | type[Attributes] | None:
        """What stands for a name; None for one that is not of plain data."""
        self.used = True
        if name in self.records:
            return Attributes
        return self._names.get(("numpy" if module in _NUMPY_MODULES else module, name))

    def plain(self, found: Any) -> Any:
        """What was read, with arrays in the place of notes; lists and dictionaries stay the same objects.

        Raises:
            UnpicklingError: a class or function stands in the data, an array has no content, or a tuple holds
                itself.
        """
        return _Plain().of(found) if self.used else found

    def _stand_ins(self) -> Mapping[tuple[str, str], Note]:
        containers: Mapping[str, Callable[..., Any]] = {
            "set": lambda items=(): set(self._taken(items)), "complex": _complex,
            "frozenset": lambda items=(): frozenset(self._taken(items)),
            "list": lambda items=(): list(self._taken(items)), "bytes": lambda: b"",
            "dict": lambda items=(): dict(self._taken(items)),
        }  # fmt: skip
        makers: dict[tuple[str, str], Callable[..., Any]] = {
            **{(m, n): make for m in ("builtins", "__builtin__") for n, make in containers.items()},
            ("collections", "OrderedDict"): lambda items=(): dict(self._taken(items)),
            ("collections", "defaultdict"): lambda factory=None: {},
            ("_codecs", "encode"): self._bytes_of,
            ("numpy", "_reconstruct"): self._new_array,
            ("numpy", "_frombuffer"): self._from_buffer,
            ("numpy", "scalar"): self._scalar,
            ("numpy", "dtype"): ElementType,
        }
        return {("numpy", "ndarray"): ArrayClass(), **{name: _Maker(make) for name, make in makers.items()}}

    def _taken(self, items: Any) -> Sequence[Any]:
        if not isinstance(items, list | tuple):
            raise UnpicklingError(f"a container made of {type(items).__name__}")
        self.budget.take(len(items))
        return items

    def _bytes_of(self, text: object, encoding: object) -> bytes:
        """How protocol 2 writes bytes."""
        if not isinstance(text, str) or encoding != "latin1":
            raise UnpicklingError(f"bytes encoded as {shown(encoding)}")
        self.budget.take(len(text))
        return text.encode("latin1")

    def _new_array(self, kind: object, shape: object, code: object) -> PickledArray:
        """What numpy makes before the state is set: always an empty array of bytes."""
        if not isinstance(kind, ArrayClass) or shape != (0,) or code not in (b"b", "b"):
            raise UnpicklingError(f"an array that begins as {shown(code)} of class {shown(kind)}")
        return PickledArray(self.budget)

    def _from_buffer(
        self, data: object, kind: object, shape: object, order: object, axes: object = None
    ) -> PickledArray:
        """How protocol 5 writes arrays; order K says how `axes` are swapped after all else."""
        array = PickledArray(self.budget)
        if order == "K" and isinstance(axes, tuple) and all(map(is_size, axes)):
            array.fill(shape, kind, data, "C", axes)
        elif order in ("C", "F") and axes is None:
            array.fill(shape, kind, data, "F" if order == "F" else "C")
        else:
            raise UnpicklingError(f"an array in order {shown(order)}")
        return array

    def _scalar(self, kind: object, payload: object = b"") -> Any:
        """A number or text of numpy, as that of Python: it has the same value."""
        array = PickledArray(self.budget)
        array.fill((), kind, payload, "C")
        return array.plain(_no_objects).item()


_NUMPY_MODULES = frozenset(
    {"numpy"} | {f"numpy.{core}.{part}" for core in ("core", "_core") for part in ("multiarray", "numeric")}
)


def _no_objects(_objects: list[Any]) -> NoReturn:
    raise UnpicklingError("a scalar that is an object")


def _complex(real: object, imaginary: object) -> complex:
    if not isinstance(real, float) or not isinstance(imaginary, float):
        raise UnpicklingError("a complex number that is not made of two numbers")
    return complex(real, imaginary)


_IN_WORK = object()
"""In the place of a tuple or array whose parts are not all made yet."""


class _Plain:
    """Puts arrays in the place of notes, in everything that hangs on one object, each object once."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[Any, Any]] = {}
        """By id of what was read: itself, which keeps the id its own, and what stands in its place."""

    def of(self, value: Any) -> Any:
        kind = type(value)
        if kind not in _HOLDERS:
            return value
        if id(value) not in self._done:
            self._done[id(value)] = value, value if kind in (list, dict) else _IN_WORK
            self._done[id(value)] = value, _HOLDERS[kind](self, value)
        made = self._done[id(value)][1]
        if made is _IN_WORK:
            raise UnpicklingError(f"{kind.__name__}: it holds itself")
        return made

    def _list(self, values: list[Any]) -> list[Any]:
        for number, value in enumerate(values):
            if type(value) in _HOLDERS:
                values[number] = self.of(value)
        return values

    def _dictionary(self, values: dict[Any, Any]) -> dict[Any, Any]:
        for name, value in values.items():
            if type(value) in _HOLDERS:
                values[name] = self.of(value)
        return values

    def _tuple(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not any(type(value) in _HOLDERS for value in values):
            return values
        return tuple(map(self.of, values))

    def _array(self, note: PickledArray) -> np.ndarray:
        return note.plain(self._list)

    def _type(self, note: ElementType) -> np.dtype[Any]:
        return note.plain()

    def _attributes(self, note: Attributes) -> dict[Any, Any]:
        if note.state is None:
            raise UnpicklingError("an object without attributes")
        return self._dictionary(note.state)

    def _refused(self, note: Note | type) -> NoReturn:
        raise UnpicklingError("a class or function stands where data belong")


_HOLDERS: Mapping[type, Callable[[_Plain, Any], Any]] = {
    list: _Plain._list, dict: _Plain._dictionary, tuple: _Plain._tuple,
    PickledArray: _Plain._array, ElementType: _Plain._type, Attributes: _Plain._attributes,
    _Maker: _Plain._refused, ArrayClass: _Plain._refused, type: _Plain._refused,
}  # fmt: skip
"""What may be or hold a note; sets and keys cannot, as notes have no hash."""
