"""One question to the scheduler for all the jobs that a user's processes follow on this machine.

Each stage of a pipeline is followed by a process of its own. They share the last answer in a file that only
this user can read: whoever finds it old asks for all jobs of late, and the others read what was answered.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swamp_dist.atomic_files import write_atomically
from swamp_dist.backends.protocols import SchedulerError
from swamp_dist.records import JobState

FRESH_SECONDS = 4.0
"""How old an answer may be; a little less than the time between two questions of one process."""
_FOLLOWED_SECONDS = 60.0
"""A job that nobody asked about for so long is not asked about for others any more."""

Ask = Callable[[Sequence[str]], dict[str, JobState]]


def shared_answer(ids: Sequence[str], scheduler: str, ask: Ask) -> dict[str, JobState]:
    """Jobs by their ids, at most `FRESH_SECONDS` old.

    Args:
        scheduler: which one is asked: answers of one are none of another's.
        ask: asks it about several jobs.

    Raises:
        SchedulerError: no answer, to this process or to the one that asked last.
    """
    folder = _own_folder()
    if folder is None:
        return ask(ids)
    name = hashlib.sha256(scheduler.encode()).hexdigest()[:16]
    with _alone(folder / f"{name}.lock"):
        kept = _read(folder / f"{name}.json")
        now = time.time()
        followed = {job: at for job, at in kept["followed"].items() if 0 <= now - at < _FOLLOWED_SECONDS}
        fresh = 0 <= now - kept["time"] < FRESH_SECONDS and set(ids) <= set(followed)
        if not fresh:
            kept = {"time": now, **_answer(list(dict.fromkeys([*ids, *followed])), ask)}
        kept["followed"] = followed | dict.fromkeys(ids, now)
        write_atomically(folder / f"{name}.json", json.dumps(kept))
    if kept["error"]:
        raise SchedulerError(kept["error"])
    return {job: JobState(**kept["jobs"][job]) for job in ids if job in kept["jobs"]}


def _answer(ids: Sequence[str], ask: Ask) -> dict[str, Any]:
    try:
        return {"error": "", "jobs": {job: asdict(state) for job, state in ask(ids).items()}}
    except SchedulerError as error:
        return {"error": str(error), "jobs": {}}


def _read(path: Path) -> dict[str, Any]:
    """The last answer; one that is long gone where there is none, or another version's."""
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(path.read_bytes())
        if isinstance(kept, Mapping) and {"time", "error", "jobs", "followed"} <= set(kept):
            return dict(kept)
    return {"time": 0.0, "error": "", "jobs": {}, "followed": {}}


def _own_folder() -> Path | None:
    """A folder that is this user's alone; None where another one has made it."""
    folder = Path(tempfile.gettempdir()) / f"swamp-dist-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if own else None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # held for one question at most, which has its own time limit
        yield
