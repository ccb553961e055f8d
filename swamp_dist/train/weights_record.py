"""The sha256 that was recorded of a weights file: whoever reads the file compares its bytes with it.

`result.json` of a stage names that of its weights; imported weights have a file beside them that
`sha256sum -c` reads. Weights of an earlier version have neither, and are read with a line that says so.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from swamp_dist.atomic_files import write_atomically
from swamp_dist.errors import UserError, system_error
from swamp_dist.evaluate.results import read_result
from swamp_dist.file_names import RESULT_FILE, WEIGHTS_FILE

logger = logging.getLogger(__name__)
RESTORE = (
    "Restore the file from a copy, or make it again. In a run folder: remove result.json, and the stage's "
    "own command\nwrites the weights anew from its checkpoints."
)
"""What helps where weights have changed since they were written."""


def recorded_sha256(path: Path) -> str | None:
    """What was recorded of the weights file `path` by those who wrote it; None where nothing was.

    Raises:
        UserError: the record is there and cannot be read.
    """
    if path.name == WEIGHTS_FILE and (path.parent / RESULT_FILE).is_file():
        return read_result(path.parent).weights_sha256
    beside = _file_beside(path)
    if not beside.is_file():
        return None
    try:
        return beside.read_text(encoding="utf-8").split(maxsplit=1)[0]
    except OSError as error:
        raise UserError(system_error(error)) from None
    except (ValueError, IndexError):
        raise UserError(f"{beside}: expected the sha256 of {path.name}. Import the weights again.") from None


def record_sha256(path: Path, sha256: str) -> None:
    """Record the sha256 of a weights file that belongs to no stage.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(_file_beside(path), f"{sha256}  {path.name}\n")


def check_sha256(path: Path, found: str, expected: str | None, fix: str) -> None:
    """Compare the hash of a file's bytes with the recorded one, where one was recorded.

    Raises:
        UserError: they differ.
    """
    if expected not in (None, found):
        raise UserError(
            f"{path}: it has changed since it was written: its sha256 is {found[:16]}..., recorded is "
            f"{expected[:16]}...\n{fix}"
        )


@cache
def say_unchecked(path: Path) -> None:
    """Say that a file cannot be compared with anything; once for each file and process."""
    logger.warning("%s: no sha256 was recorded of it, so it is used unchecked", path)


def _file_beside(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
