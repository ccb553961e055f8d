"""Who holds a run folder: what `.owner.json` says, written by rename or link and never in place."""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from swamp_dist.environment import job_id, job_restarts
from swamp_dist.plain_files import NotPlainError, parse_json, read_plain_file
from swamp_dist.runs.processes import own_mark

_MOST_BYTES = 2**16
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_READS, _PAUSE = 3, 0.2


@dataclass(frozen=True)
class LockHolder:
    """Who holds a run folder."""

    host: str
    boot: str
    """Identity of the running kernel: hosts may share a name, kernels do not share this."""
    pid: int
    job: str
    """The scheduler's id of its job, or ""."""
    since: str
    token: str
    """Tells two owners apart that are equal otherwise."""
    born: str = ""
    """Boot and clock tick at which the process started: its number alone may be used again."""
    restart: int = 0
    """How often the scheduler had started its job again: tells the attempts of one job apart."""

    def __str__(self) -> str:
        again = f", restart {self.restart}" if self.restart else ""
        job = f" (job {self.job}{again})" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"

    def is_same_job(self, other: LockHolder) -> bool:
        """Whether both are of one job of a scheduler."""
        return bool(self.job) and self.job == other.job

    def precedes(self, other: LockHolder) -> bool:
        """Whether this is an earlier attempt of the same job."""
        return self.is_same_job(other) and self.restart < other.restart


def this_process() -> LockHolder:
    """The holder that this process would be."""
    boot = BOOT_ID.read_text().strip() if BOOT_ID.is_file() else socket.gethostname()
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    return LockHolder(
        socket.gethostname(),
        boot,
        os.getpid(),
        job_id(),
        since,
        token=uuid.uuid4().hex,
        born=own_mark().born,
        restart=job_restarts(),
    )


def holder_file(folder: Path) -> Path:
    """The file that names the holder."""
    return folder / ".owner.json"


def write_holder(file: Path, holder: LockHolder) -> None:
    """Write a new file that names `holder` and force it to disk."""
    with file.open("w") as out:
        json.dump(asdict(holder), out)
        out.flush()
        os.fsync(out.fileno())


def read_holder(file: Path) -> LockHolder | None:
    """None where there is no file, or none that a holder wrote. Fields of a later version are passed over."""
    try:
        return _parse(read_plain_file(file, _MOST_BYTES))
    except OSError:
        return None


def read_holder_surely(file: Path) -> LockHolder | None:
    """`read_holder` that tells a file that is gone from one that cannot be read now.

    Raises:
        OSError: it cannot be read, several times in a row: a network file system may need a moment.
    """
    for attempt in range(_READS):
        try:
            return _parse(read_plain_file(file, _MOST_BYTES))
        except (FileNotFoundError, NotPlainError):  # a pipe or device is nobody's
            return None
        except OSError:
            if attempt == _READS - 1:
                raise
            time.sleep(_PAUSE)
    raise AssertionError("unreachable")


def _parse(content: bytes) -> LockHolder | None:
    known = {field.name for field in fields(LockHolder)}
    try:
        parsed = parse_json(content)
        given = parsed if isinstance(parsed, dict) else {}
        found = LockHolder(**{key: value for key, value in given.items() if key in known})
    except (ValueError, TypeError):
        return None
    texts = (found.host, found.boot, found.job, found.since, found.token, found.born)
    if not all(isinstance(text, str) for text in texts):
        return None
    if not isinstance(found.pid, int) or not isinstance(found.restart, int):
        return None
    return found if found.token.isalnum() and len(found.token) <= 64 else None  # part of a file's name
