"""Who works in a run folder: one live job at most, on any host that sees the folder.

What is relied on, in this order:

1. A lock of the operating system (flock) on `.owner.lock`. It ends with its process, however that ends, and always
   holds between processes of one host. Between hosts it holds on file systems that share locks (NFS 4,
   Lustre mounted with `flock`, GPFS), which not all do.
2. `.owner.json`, made by a hard link: of two hosts that link at once exactly one succeeds, on NFS too.
   A dead owner is followed by the one that makes a second link, named for the dead one.
3. Signs of life of the owner that it names. The scheduler knows whether its job runs; without a job its
   process renews the file's time every few seconds, and only a file that stays unchanged while it is
   watched is stale. No two clocks are compared.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from swamp_dist.launch.processes import own_mark
from swamp_dist.records import UserError

RENEW_SECONDS = 10.0
"""Between two signs of life."""
WATCH_SECONDS = 35.0
"""How long a file without a job is watched before it counts as stale."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_AT_WORK = {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"}
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}
_TRIES = 5


class RunDirHeld(UserError):
    """Another live process works in the run folder; the command line ends with code 3."""


@dataclass(frozen=True)
class Owner:
    """Who holds a run folder."""

    host: str
    boot: str
    """Identity of the running kernel: hosts may share a name, kernels do not share this."""
    pid: int
    job: str
    """SLURM job id, or ""."""
    since: str
    token: str
    """Tells two owners apart that are equal otherwise."""
    born: str = ""
    """Boot and clock tick at which the process started: its number alone may be used again."""

    def __str__(self) -> str:
        job = f" (SLURM job {self.job})" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


def this_process() -> Owner:
    """The owner that this process would be."""
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.is_file() else socket.gethostname()
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    job = os.environ.get("SLURM_JOB_ID", "")
    return Owner(socket.gethostname(), boot, os.getpid(), job, since, uuid.uuid4().hex, own_mark().born)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Own `folder` inside the block.

    Raises:
        RunDirHeld: another live process does; the message says which.
    """
    me, file = this_process(), owner_file(folder)
    with _locked(folder) as shares_locks:
        _claim(file, me, shares_locks)
        try:
            with _signs_of_life(file):
                yield
        finally:
            if _read(file) == me:
                file.unlink(missing_ok=True)


def refuse_if_held(folder: Path) -> None:
    """Ask who works in `folder`, without taking it.

    Raises:
        RunDirHeld: a live process owns it; the message says which.
    """
    if not owner_file(folder).is_file():
        return
    with _locked(folder) as shares_locks:
        owner = _read(owner_file(folder))
        if owner is not None and is_alive(owner, owner_file(folder), this_process(), shares_locks):
            raise RunDirHeld(held_by(folder, str(owner)))


def owner_file(folder: Path) -> Path:
    """The file that names the owner."""
    return folder / ".owner.json"


def held_by(folder: Path, who: str) -> str:
    """The message that refuses a second run."""
    return (
        f"run folder {folder} is held by {who}.\n"
        "Two runs would overwrite each other: wait for it, stop it, or choose another --run-dir."
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the operating system's lock; yields False where the file system has none."""
    descriptor = os.open(folder / ".owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield _lock(descriptor, folder)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = _read(owner_file(folder))
        who = str(owner) if owner else "a process that has just started or is just ending"
        raise RunDirHeld(held_by(folder, who)) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _claim(file: Path, me: Owner, shares_locks: bool) -> None:
    """Write `me` into the owner's file, in place of a dead owner only."""
    mine = file.with_name(f"{file.name}.{me.token}")
    try:
        _write(mine, me)
        for _ in range(_TRIES):
            with contextlib.suppress(FileExistsError):
                os.link(mine, file)
                return
            owner = _read(file)
            if owner is not None and is_alive(owner, file, me, shares_locks):
                raise RunDirHeld(held_by(file.parent, str(owner)))
            if _succeed(file, mine, owner):
                return
    finally:
        mine.unlink(missing_ok=True)
    raise RunDirHeld(held_by(file.parent, f"processes that come and go; see {file}"))


def _succeed(file: Path, mine: Path, dead: Owner | None) -> bool:
    """Put `mine` in the place of a dead owner's file; False where something changed meanwhile.

    Of several who found it dead only the one may that makes the mark with the dead owner's token, and it looks
    again once it has the mark: from then on nobody else can change the file.
    """
    mark = file.with_name(f"{file.name}.dead-{dead.token if dead else 'torn'}")
    try:
        os.link(file, mark)
    except FileNotFoundError:  # released a moment ago
        return False
    except FileExistsError:
        if not _changes(file, dead):  # who made the mark has died over it
            mark.unlink(missing_ok=True)
        return False
    try:
        if _read(file) != dead:
            return False
        mine.rename(file)
        return True
    finally:
        mark.unlink(missing_ok=True)


def _changes(file: Path, owner: Owner | None) -> bool:
    """Whether the file comes to name another owner, or none, while it is watched."""
    deadline = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        if _read(file) != owner:
            return True
        time.sleep(min(1.0, WATCH_SECONDS / 10))
    return False


def is_alive(owner: Owner, file: Path, me: Owner, shares_locks: bool) -> bool:
    """Whether the owner named in `file` still works there; asked while holding the lock.

    On this host the lock has the answer. A job that starts again is its own successor.
    """
    if owner.boot == me.boot:
        return not shares_locks and Path(f"/proc/{owner.pid}").exists()
    if owner.job and owner.job == me.job:
        return False
    working = _job_works(owner.job) if owner.job else None
    return _renews(file, WATCH_SECONDS) if working is None else working


def _job_works(job: str) -> bool | None:
    """Whether SLURM runs the job now; None where nobody can tell."""
    try:
        asked = subprocess.run(
            ["squeue", "--noheader", "--jobs", job, "--format=%T"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode != 0:
        return False if "Invalid job id" in asked.stderr else None
    return bool(_AT_WORK & set(asked.stdout.split()))


def _renews(file: Path, seconds: float) -> bool:
    """Whether the file's time changes while it is watched."""
    first, deadline = _time(file), time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(min(1.0, seconds / 10))
        if _time(file) != first:
            return True
    return False


def _time(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _signs_of_life(file: Path, seconds: float = RENEW_SECONDS) -> Iterator[None]:
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(seconds):
            with contextlib.suppress(OSError):
                os.utime(file)

    thread = threading.Thread(target=renew, name="run folder's owner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _write(file: Path, owner: Owner) -> None:
    with file.open("w") as out:
        json.dump(asdict(owner), out)
        out.flush()
        os.fsync(out.fileno())


def _read(file: Path) -> Owner | None:
    """None where there is no file, or none that an owner wrote."""
    try:
        return Owner(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None
