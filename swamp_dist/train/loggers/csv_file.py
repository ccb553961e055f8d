"""`metrics.csv` in the run folder: one line per figure, which every table program opens."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, final

from swamp_dist.atomic_files import named, write_atomically
from swamp_dist.train.loggers.logger import Logger, RunAbout

if TYPE_CHECKING:
    from torch import Tensor

FILE = "metrics.csv"
HEADER = ["step", "tag", "value"]


@final
class CsvLogger(Logger):
    """Lines `step,tag,value`; a resume cuts them at its step, as it does rows of `metrics.jsonl`."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        self._path = folder / FILE
        kept = _lines_up_to(self._path, resume_step) if self._path.is_file() else []
        write_atomically(self._path, "".join(f"{','.join(line)}\n" for line in [HEADER, *kept]).encode())
        with named(self._path):
            self._file = open(self._path, "a", newline="")  # noqa: SIM115 (open as long as the run)
        self._lines = csv.writer(self._file, lineterminator="\n")

    def about(self, run: RunAbout) -> None:
        """Nothing: stage.yaml and provenance.json lie beside the file."""

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        """One line each; what is no number is written as Python writes it, nan or inf."""
        with named(self._path):
            self._lines.writerows((step, tag, repr(float(value))) for tag, value in figures.items())
            self._file.flush()

    def histogram(self, tag: str, values: Tensor, step: int) -> None:
        """Nothing: a table has no pictures."""

    def result(self, run: RunAbout, figures: Mapping[str, float], step: int) -> None:
        """As any other figures."""
        self.figures(figures, step)

    def flush(self) -> None:
        """To the disk."""
        with named(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close the file."""
        self.flush()
        self._file.close()


def _lines_up_to(path: Path, resume_step: int) -> list[list[str]]:
    """Whole lines of at most that step; a torn last line belongs to no checkpoint."""
    text = path.read_text(errors="replace")
    whole = text[: text.rfind("\n") + 1]
    lines = [line for line in csv.reader(whole.splitlines()) if len(line) == len(HEADER)]
    return [line for line in lines if line[0].isdecimal() and 0 < int(line[0]) <= resume_step]
