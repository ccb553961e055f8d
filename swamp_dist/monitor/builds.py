"""Builds of shard sets that are going on, as their notes tell; nothing is locked or waited for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from swamp_dist.file_names import build_note_file, is_build_note
from swamp_dist.plain_files import parse_json, read_plain_file
from swamp_dist.progress import duration
from swamp_dist.runs.events import number
from swamp_dist.runs.graph import read_shards
from swamp_dist.runs.processes import life, mark_from

_MOST_BYTES = 2**16


@dataclass(frozen=True)
class BuildStatus:
    """One build that goes on."""

    out: Path
    done: int | None
    """Finished shards; None while the raw data are opened."""
    total: int | None
    seconds: float
    """Since it began."""
    host: str
    pid: int

    @property
    def line(self) -> str:
        """`building data/msrvtt: 3 of 11 shards, 2 min so far (process 17 on node1)`"""
        shards = f"{self.done} of {self.total} shards" if self.total is not None else "opening the raw data"
        return (
            f"building {self.out}: {shards}, {duration(self.seconds)} so far (process {self.pid} on "
            f"{self.host})"
        )


def live_builds(folders: Sequence[Path]) -> list[BuildStatus]:
    """Builds of sets that stand in `data/`, in these folders, or in the graphs of these pipelines."""
    beside = [*(Path("data"), *folders)]
    notes = [note for folder in beside for note in _notes(folder)]
    notes += [build_note_file(Path(out)) for folder in folders for out in read_shards(folder)]
    found = (_read(note) for note in dict.fromkeys(notes))
    return [status for status in found if status is not None]


def _notes(folder: Path) -> Iterable[Path]:
    try:
        return sorted(path for path in folder.iterdir() if is_build_note(path))
    except OSError:
        return ()


def _read(note: Path) -> BuildStatus | None:
    """None where nobody builds any more: a killed build leaves its note."""
    try:
        told = parse_json(read_plain_file(note, _MOST_BYTES))
    except (OSError, ValueError):
        return None
    if not isinstance(told, dict):
        return None
    mark = mark_from(told)
    if mark is None or life(mark) in ("dead", "unknown"):
        return None
    done, total, began = (number(told, key) for key in ("done", "total", "began"))
    return BuildStatus(
        Path(str(told.get("out"))),
        None if done is None else int(done),
        None if total is None else int(total),
        0.0 if began is None else max(0.0, time.time() - began),
        mark.host,
        mark.pid,
    )
