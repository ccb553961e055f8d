"""The logs of a run, cut where it was started again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from swamp_dist.errors import UserError
from swamp_dist.runs.events import Attempt, attempts, number
from swamp_dist.runs.folder import RunDir

_LOOK_SECONDS = 0.3
_LAST_SECOND = 253402300799.0
"""Of the year 9999: dates beyond are no dates."""


@dataclass(frozen=True)
class LogFile:
    """One log of a run and what it holds."""

    path: Path
    what: str


def find_logs(run_dir: RunDir, rank: int | None) -> list[LogFile]:
    """The logs to show, the most telling last.

    Without a rank: what the scheduler caught, then the console where a pipeline kept it, else rank 0's.

    Raises:
        UserError: there is no log yet, or none of that rank; lists those there are.
    """
    if rank is not None:
        path = run_dir.log(rank)
        if not path.is_file():
            raise UserError(f"no log of rank {rank} in {run_dir.logs}.\nThere are: {_listed(run_dir)}")
        return [LogFile(path, f"rank {rank}")]
    caught = [LogFile(p, "scheduler output") for p in scheduler_outputs(run_dir)]
    kept = [LogFile(run_dir.console_log, "console"), LogFile(run_dir.log(0), "rank 0")]
    found = caught + [log for log in kept if log.path.is_file()][:1]
    found = [log for log in found if log.path.stat().st_size] or found
    if not found:
        raise UserError(
            f"no log in {run_dir.logs} yet.\nThere are: {_listed(run_dir)}. `swamp status {run_dir.path}` "
            "tells whether the run has begun."
        )
    return found


def scheduler_outputs(run_dir: RunDir) -> list[Path]:
    """Files that SLURM wrote the output of batch script and tasks to, oldest first."""
    outputs = [*run_dir.logs.rglob("*.out"), *run_dir.logs.rglob("*.err")]
    return sorted((p for p in outputs if p.is_file()), key=lambda p: p.stat().st_mtime)


def lines_of(run_dir: RunDir, log: LogFile, most: int | None) -> Iterator[str]:
    """The last `most` lines of a log (None: all), a line of its own where an attempt begins."""
    content = log.path.read_bytes()
    name = log.path.relative_to(run_dir.logs).as_posix()
    marked = _with_starts(content, name, attempts(run_dir.read_events()))
    yield from marked if most is None else deque(marked, most)


def follow(
    run_dir: RunDir, log: LogFile, most: int | None, live: Callable[[], bool], look: float = _LOOK_SECONDS
) -> Iterator[str]:
    """As `lines_of`, then every new line until the run is no longer `live` and nothing new has come.

    A start of the run while it is followed gets its line too.
    """
    yield from lines_of(run_dir, log, most)
    # What follows the last line end is unfinished and was shown as it stands: go on behind it.
    at, shown = log.path.stat().st_size, len(attempts(run_dir.read_events()))
    quiet = False
    while not quiet:
        quiet = not live()
        now = attempts(run_dir.read_events())
        yield from (_headline(now, attempt) for attempt in islice(now, shown, None))
        shown = len(now)
        with log.path.open("rb") as file:
            file.seek(at)
            fresh = file.read()
        whole = fresh if quiet else fresh[: fresh.rfind(b"\n") + 1]
        at += len(whole)
        yield from whole.decode(errors="replace").splitlines()
        if not quiet:
            time.sleep(look)


def _with_starts(content: bytes, name: str, tries: Sequence[Attempt]) -> Iterator[str]:
    """Lines of a log, cut at the sizes that it had when each attempt began."""
    cuts = [(int(size), attempt) for attempt in tries if (size := _size_at_start(attempt, name)) is not None]
    begun = 0
    for place, (size, attempt) in enumerate(cuts):
        if place == 0 or size > begun:
            yield from content[begun:size].decode(errors="replace").splitlines()
        begun = max(begun, size)
        yield _headline(tries, attempt)
    yield from content[begun:].decode(errors="replace").splitlines()


def _size_at_start(attempt: Attempt, name: str) -> float | None:
    """Bytes of a log when the attempt began: 0 where it was not there; None where it noted no sizes."""
    sizes = attempt.events[0].get("logs")
    return (number(sizes, name) or 0.0) if isinstance(sizes, dict) else None


def _headline(tries: Sequence[Attempt], attempt: Attempt) -> str:
    """`---- start 2, 2026-01-31 12:00:00 on HOST, 2 ranks (start 1 was preempted at step 12) ----`"""
    began = min(max(attempt.began, 0.0), _LAST_SECOND)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began))
    where = f" on {attempt.marks[0].host}" if attempt.marks else ""
    ranks = next((int(n) for e in attempt.events if (n := number(e, "world_size")) is not None), None)
    size = f", {ranks} rank{'s' if ranks != 1 else ''}" if ranks else ""
    before = next((t for t in tries if t.number == attempt.number - 1), None)
    return f"---- start {attempt.number}, {when}{where}{size}{_how_ended(before)} ----"


def _how_ended(before: Attempt | None) -> str:
    if before is None:
        return ""
    ending = before.ending
    if ending is None:
        return f" (start {before.number} ended without a word)"
    step = number(ending, "step")
    at = f" at step {step:.0f}" if step is not None else ""
    return f" (start {before.number}: {ending['event']}{at})"


def _listed(run_dir: RunDir) -> str:
    return ", ".join(run_dir.log_sizes()) or "none"
