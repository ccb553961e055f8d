"""Pruned word vectors: two arrays in a `.npz`, or a `.npy` with the words in a `.txt` beside it."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swamp_dist.errors import UserError
from swamp_dist.npy_files import map_npy
from swamp_dist.sources.columns.arrays import unpack_member


def read_npz(path: Path) -> tuple[list[str], NDArray[np.generic]]:
    """The arrays `words` (n,) of texts and `vectors` (n, dim) of a file of np.savez.

    Raises:
        UserError: it is another file, or would take far more memory than it has bytes.
    """
    try:
        with zipfile.ZipFile(path) as file:
            words, vectors = (unpack_member(path, file, f"{name}.npy") for name in ("words", "vectors"))
    except KeyError as error:
        raise UserError(f"{path}: expected the arrays `words` and `vectors`: {error}") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise UserError(f"{path}: not a readable .npz without pickled objects ({error}).") from None
    if words.dtype.kind != "U" or words.ndim != 1:
        raise UserError(f"{path}: expected `words` to be texts (n,), found {words.dtype} {words.shape}")
    return words.tolist(), vectors


def read_pair(path: Path) -> tuple[list[str], NDArray[np.generic]]:
    """The words of `NAME.txt`, line i that of row i, and the vectors (n, dim) of `NAME.npy`, mapped.

    Raises:
        UserError: one of the two is absent or another file.
    """
    beside = path.with_suffix(".txt")
    try:
        vectors = map_npy(path)
        words = beside.read_text("utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise UserError(f"{beside}: absent; expected the words of the rows of {path.name}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{beside}: damaged at byte {error.start:,}: not UTF-8.\nCopy or download the file again."
        ) from None
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: not a readable array ({error}). Copy or build it again.") from None
    return words, vectors
