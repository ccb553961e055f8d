"""Vectors of classes from their names, by published vectors of words or by a table of classes.

The rule for names of several words is this package's own: Doodle2Search shipped vectors, and does not say how
those of `hot-air_balloon` came about, which no published file of word vectors has.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from swamp_dist.errors import UserError
from swamp_dist.npy_files import map_npy
from swamp_dist.pickles.safe_pickle import read_pickle
from swamp_dist.plain_files import NotPlainError, read_plain_file
from swamp_dist.sources.class_names import normal_name
from swamp_dist.sources.word_vectors import read_vectors

logger = logging.getLogger(__name__)

_MOST_BYTES = 2**24
_SHOWN = 12


def words_of_class(name: str) -> list[str]:
    """The words of a class's name: its runs of letters and digits. `car_(sedan)` has car and sedan."""
    return re.findall(r"[^\W_]+", name)


def mean_vectors(names: Sequence[str], words: Mapping[str, str], file: Path) -> tuple[np.ndarray, str]:
    """For each class the mean of the vectors of its words, of those that have one.

    Args:
        names: of the classes, by label.
        words: a text to look up instead of a name, by name.
        file: of word vectors.

    Returns:
        (classes, E) float32, and the sha256 of the file.

    Raises:
        UserError: no word of a class has a vector (all such classes are named), or as `read_vectors`.
    """
    asked = [words_of_class(words.get(name, name)) for name in names]
    found = read_vectors(file, {word for each in asked for word in each})
    rows = dict(zip(found.words, found.vectors.astype(np.float64), strict=True))
    known = [[rows[word] for word in each if word in rows] for each in asked]
    _refuse_missing([name for name, each in zip(names, known, strict=True) if not each], len(names), file)
    partly = [
        f"{name} ({', '.join(word for word in each if word not in rows)})"
        for name, each in zip(names, asked, strict=True)
        if not all(word in rows for word in each)
    ]
    if partly:
        logger.info("words of class names without a vector, left out of the mean: %s", "; ".join(partly))
    return np.stack([np.mean(each, axis=0) for each in known]).astype(np.float32), found.sha256


def table_rows(names: Sequence[str], words: Mapping[str, str], file: Path, rows_file: Path) -> np.ndarray:
    """For each class its row of a table of classes, found by its name.

    Args:
        names: of the classes, by label.
        words: the name that the table has for a class, by name.
        file: `.npy` (n, E) of numbers.
        rows_file: names of its rows, `.txt` or `.pkl`; compared in the spelling of `normal_name`.

    Returns:
        (classes, E) float32.

    Raises:
        UserError: a file cannot be read, the two do not fit each other, a name stands in two rows that
            differ, or a class has no row (all such classes are named).
    """
    listed = _row_names(rows_file)
    try:
        table = np.array(map_npy(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as a table of vectors ({error})") from None
    if table.ndim != 2 or table.dtype.kind != "f" or len(table) != len(listed):
        raise UserError(
            f"{file}: expected one row of numbers for each of the {len(listed)} names of {rows_file}; found "
            f"{table.dtype} {table.shape}"
        )
    row_of: dict[str, int] = {}
    for row, name in enumerate(map(normal_name, listed)):
        first = row_of.setdefault(name, row)
        if not np.array_equal(table[first], table[row], equal_nan=True):
            raise UserError(f"{rows_file}: rows {first} and {row} are both called {name!r}, and differ")
    wanted = [normal_name(words.get(name, name)) for name in names]
    missing = [name for name, asked in zip(names, wanted, strict=True) if asked not in row_of]
    _refuse_missing(missing, len(names), rows_file)
    with np.errstate(over="ignore"):  # `check_finite` names the class of a number that float32 cannot hold
        return np.asarray(table[[row_of[name] for name in wanted]], dtype=np.float32)


def check_finite(names: Sequence[str], rows: np.ndarray, source: str) -> None:
    """Refuse rows (N, E) with a value that is not finite.

    Args:
        names: of the classes, by row.
        rows: their vectors.
        source: file or network that they come from, for the message.

    Raises:
        UserError: names all such classes.
    """
    finite = np.isfinite(rows).all(axis=1)
    if wrong := [name for name, good in zip(names, finite, strict=True) if not good]:
        raise UserError(
            f"class_vectors: {source}: the vector of {_list(wrong)} holds a number that is not finite in "
            f"float32.\nFix: mend the file, or {_other_words(wrong[0])}"
        )


def unit_rows(names: Sequence[str], rows: np.ndarray, source: str) -> np.ndarray:
    """Rows (N, E) brought to length 1, float32.

    Args:
        names: of the classes, by row.
        rows: their vectors, finite.
        source: file or network that they come from, for the message.

    Raises:
        UserError: a row is zero; all such classes are named.
    """
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    if wrong := [name for name, length in zip(names, lengths[:, 0], strict=True) if not length]:
        raise UserError(
            f"class_vectors: {source}: the vector of {_list(wrong)} is zero and cannot be brought to length "
            f"1.\nFix: {_other_words(wrong[0])}; or keep lengths as they are, class_vectors.unit: false"
        )
    return np.asarray(rows / lengths, dtype=np.float32)


def _other_words(name: str) -> str:
    return f"say what to look up instead, class_vectors.words: {{{name}: OTHER WORDS}}"


def _refuse_missing(missing: Sequence[str], count: int, file: Path) -> None:
    if missing:
        raise UserError(
            f"class_vectors: {file} has no vector for {len(missing)} of {count} classes: "
            f"{', '.join(missing)}.\n"
            "Fix: say what to look up for them, for example class_vectors.words: "
            f"{{{missing[0]}: OTHER WORDS}}; case counts."
        )


def _row_names(file: Path) -> list[str]:
    if file.suffix == ".pkl":
        listed = read_pickle(file)
        if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
            raise UserError(f"{file}: expected a list of names, found {type(listed).__name__}")
        return list(listed)
    try:
        return read_plain_file(file, _MOST_BYTES).decode().splitlines()
    except (OSError, NotPlainError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as a list of names ({error})") from None


def _list(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
