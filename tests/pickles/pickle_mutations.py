"""Hostile pickles, read in this process one after the other: run as a child, which a bad reader may crash.

`python pickle_mutations.py FOLDER` reads FOLDER/*.pkl; `... FOLDER SEED COUNT` makes COUNT mutations, which
depend on nothing but seed and number. What became of each is a line of FOLDER/outcomes: its name, and
`refused`, `equal` (to what numpy itself reads), or what is wrong. A line without a word is a crash.
"""

from __future__ import annotations

import collections
import os
import pickle
import pickletools
import random
import resource
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from swamp_dist.errors import UserError
from swamp_dist.pickles.safe_pickle import read_pickle

VALUES: tuple[Any, ...] = (
    [np.arange(6, dtype="f2").reshape(2, 3), {"2d": np.ones(4, "f4"), "id": "a", "n": np.float32(1.5)}],
    np.array(["a", None, ("x", 2)], dtype=object),
    {"big": np.arange(3, dtype=">f4"), "text": np.array(["ab", "c"]), "raw": np.array([b"ab"])},
    [{"2d": np.zeros(3, "f4"), "3d": np.ones(3, "f8"), "caption": "add salt", "id": np.str_("v1")}] * 2,
    {"v": {"start": [0.5, 2.0], "end": np.array([1, 2], "i8"), "text": ["a b", "c"]}, "set": {1, 2}},
    collections.OrderedDict(a=frozenset("ab"), d=collections.defaultdict(list, a=[1]), c=2j, b=b"\xff\x00"),
    [np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2), np.array([True, False]), np.zeros((0, 4))],
    [np.dtype("f4"), 2**70, -3, None, True, "Cr\u00e8me"],
)  # fmt: skip
PROTOCOLS = range(6)
STATES = (b"O8", b"O", b"f8", b"U9", b"S1", b"M8", b"V4", b"|", b">", b"<", b"f4,O8")
"""What stands in types, to be put where another one stood."""


def mutation(seed: int, number: int) -> bytes:
    """One damaged or hostile pickle."""
    rng = random.Random(f"{seed} {number}")
    payload = bytearray(pickle.dumps(rng.choice(VALUES), rng.choice(PROTOCOLS)))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        rng.choice(MUTATORS)(payload, rng)
    return bytes(payload)


def _flip_bit(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set_byte(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x3F, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _set_operation(data: bytearray, rng: random.Random) -> None:
    if data:
        code = rng.choice(pickletools.opcodes).code
        data[rng.randrange(len(data))] = ord(code)


def _cut(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.choice((1, 2, 5, 40))]


def _repeat(data: bytearray, rng: random.Random) -> None:
    start, to = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    data[to:to] = data[start : start + rng.choice((1, 2, 10, 80))]


def _splice(data: bytearray, rng: random.Random) -> None:
    other = pickle.dumps(rng.choice(VALUES), rng.choice(PROTOCOLS))
    start = rng.randrange(len(other))
    to = rng.randrange(len(data) + 1)
    data[to : to + rng.choice((0, 10))] = other[start : start + rng.choice((4, 20, 80))]


def _set_state(data: bytearray, rng: random.Random) -> None:
    """Put another type's letters, size or byte order where one stands; numbers stay numbers."""
    places = [at for old in STATES for at in _all_places(data, old)]
    if places:
        at, new = rng.choice(places), rng.choice(STATES)
        data[at : at + len(new)] = new


def _set_number(data: bytearray, rng: random.Random) -> None:
    """Another number in a tuple of numbers: shapes, versions, flags."""
    places = list(_all_places(data, b"K")) + list(_all_places(data, b"J"))
    if places:
        at = rng.choice(places) + 1
        data[at : at + 1] = bytes([rng.choice((0, 1, 2, 3, 4, 63, 255))])


def _all_places(data: bytearray, wanted: bytes) -> list[int]:
    return [at for at in range(len(data)) if data[at : at + len(wanted)] == wanted]


MUTATORS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip_bit, _set_byte, _set_operation, _cut, _repeat, _splice, _set_state, _set_state, _set_number,
)  # fmt: skip


def canonical(value: Any) -> Any:
    """A value as plain tuples that compare equal where the data are equal; every element is read."""
    if isinstance(value, np.ndarray):
        same = value.astype(value.dtype.newbyteorder("=")) if value.dtype != object else value
        kept = [canonical(v) for v in value.ravel().tolist()] if value.dtype == object else same.tobytes()
        return "array", same.dtype.name, value.shape, kept
    if isinstance(value, np.generic):
        return canonical(value.item())
    if isinstance(value, dict):
        return "dict", *((canonical(k), canonical(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return type(value).__name__, *map(canonical, value)
    if isinstance(value, set | frozenset):
        return type(value).__name__, *sorted(repr(canonical(v)) for v in value)
    if isinstance(value, np.dtype):
        return "type", value.name
    assert value is None or type(value) in (int, float, complex, str, bytes, bytearray, bool), type(value)
    return type(value).__name__, repr(value)


class _Numpys(pickle.Unpickler):
    """What numpy itself makes of a pickle that names plain data."""

    def find_class(self, module: str, name: str) -> Any:
        """The real object."""
        module = module.replace("numpy.core", "numpy._core").replace("__builtin__", "builtins")
        return super().find_class(module, name)


def numpys_reading(path: Path) -> str:
    """`repr(canonical(...))` of what numpy reads, in a process of its own; "" where that fails or crashes."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.close(out)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            with path.open("rb") as file:
                text = repr(canonical(_Numpys(file, encoding="latin1").load()))
            with os.fdopen(into, "wb") as pipe:
                pipe.write(text.encode())
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text


def outcome(path: Path) -> str:
    """What became of one pickle."""
    try:
        found = read_pickle(path)
    except UserError:
        return "refused"
    try:
        ours = repr(canonical(found))
    except AssertionError as error:
        return f"not plain: {error}"
    except RecursionError:
        return "equal"  # a list that holds itself, as numpy reads it
    theirs = numpys_reading(path)
    return "equal" if ours == theirs else f"other: {ours[:300]} instead of {theirs[:300]}"


def main(folder: Path, seed: int = 0, count: int = 0) -> None:
    """As the module says."""
    warnings.simplefilter("ignore")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (folder / "outcomes").open("w", buffering=1) as outcomes:
        for path in sorted(folder.glob("*.pkl")):
            outcomes.write(f"{path.stem}\t")
            outcomes.write(outcome(path) + "\n")
        path = folder / "mutated"
        for number in range(count):
            path.write_bytes(mutation(seed, number))
            outcomes.write(f"{number}\t")
            outcomes.write(outcome(path) + "\n")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        outcomes.write(f"KiB\t{grown}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
