"""Who works in a run folder: one live job at most, on any host that sees the folder.

The lock is our own because no library has one that holds across hosts: flufl.lock compares the clocks of
hosts, filelock has no lease and leaves the lock of a lost host for ever.

What is relied on, in this order:

1. A lock of the operating system (flock) on `.owner.lock`. It ends with its process, however that ends, and
   always holds between processes of one host. Between hosts it holds on file systems that share locks (NFS 4,
   Lustre mounted with `flock`, GPFS), which not all do.
2. `.owner.json`, made by a hard link: of two hosts that link at once exactly one succeeds, on NFS too.
   A dead holder is followed by the one that makes a second link, named for the dead one.
3. Signs of life of the holder that it names. The scheduler says whether its job lives; without a job its
   process renews the file's time every few seconds, and only a file that stays unchanged while it is
   watched is stale. No two clocks are compared. Of an earlier attempt of one's own job the scheduler knows
   nothing, so its file is watched too.

A holder that was halted, or cut off, may be followed while it lives. It asks before each write that others
build on (`FolderHold.check`), and stops where the file does not name it any more.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from swamp_dist.errors import PredecessorHolds, RunDirHeld, RunDirLost
from swamp_dist.runs.holder import (
    LockHolder,
    holder_file,
    read_holder,
    read_holder_surely,
    this_process,
    write_holder,
)

RENEW_SECONDS = 10.0
"""Between two signs of life."""
WATCH_SECONDS = 35.0
"""How long a file without a job is watched before it counts as stale."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}
_TRIES = 5
_descriptors: set[int] = set()
"""Of the locks that this process has open."""


JobLives = Callable[[str], bool | None]
"""(job id) -> whether the job works now; None where nobody can tell."""


class FolderHold:
    """A folder, for as long as this process owns it."""

    def __init__(self, file: Path, me: LockHolder) -> None:
        self._file, self._me = file, me
        self._lost = threading.Event()

    @property
    def lost(self) -> bool:
        """Whether another process was seen to own it; known within seconds. Asks nobody."""
        return self._lost.is_set()

    def check(self) -> None:
        """Ask whether this process still owns the folder, before it writes what others build on.

        Raises:
            RunDirLost: it does not; nothing may be written any more.
            OSError: it cannot be told.
        """
        holder = read_holder_surely(self._file)
        if holder == self._me:
            return
        if not self._file.parent.is_dir():  # removed as a whole: the write that follows says so
            return
        self._lost.set()
        raise RunDirLost(lost_to(self._file.parent, holder), attempt=holder is not None)

    def renew(self) -> bool:
        """Leave a sign of life; False where the file is somebody else's, which must not look alive by it."""
        with contextlib.suppress(OSError):
            if read_holder_surely(self._file) != self._me and self._file.parent.is_dir():
                self._lost.set()
                return False
            os.utime(self._file)
        return True


@contextlib.contextmanager
def hold(folder: Path, job_lives: JobLives) -> Iterator[FolderHold]:
    """Own `folder` inside the block.

    Args:
        job_lives: asked about the job of a holder on another host.

    Raises:
        PredecessorHolds: an earlier attempt of this process's job does, which will end.
        RunDirHeld: another live process does; the message says which.
    """
    me, file = this_process(), holder_file(folder)
    with _locked(folder, me) as shares_locks:
        _claim(file, me, shares_locks, job_lives)
        held = FolderHold(file, me)
        try:
            with _signs_of_life(held):
                yield held
        finally:
            if read_holder(file) == me:
                file.unlink(missing_ok=True)


def refuse_if_held(folder: Path, job_lives: JobLives) -> None:
    """Ask who works in `folder`, without taking it; `job_lives` as for `hold`.

    An earlier attempt of this process's job refuses nothing: the ranks will wait for its end.

    Raises:
        RunDirHeld: a live process owns it; the message says which.
    """
    file, me = holder_file(folder), this_process()
    if not file.is_file():
        return
    with contextlib.suppress(PredecessorHolds), _locked(folder, me) as shares_locks:
        holder = read_holder(file)
        if holder is not None and is_alive(holder, file, me, shares_locks, job_lives):
            raise _refusal(folder, holder, me)


def held_by(folder: Path, who: str) -> str:
    """The message that refuses a second run."""
    return (
        f"run folder {folder} is held by {who}.\n"
        "Two runs would overwrite each other: wait for it, stop it, or choose another --run-dir."
    )


def lost_to(folder: Path, holder: LockHolder | None) -> str:
    """The message that ends a former owner."""
    who = f"is now held by {holder}" if holder else "is held by nobody: its holder's file is gone or torn"
    return (
        f"run folder {folder} {who}.\n"
        "This process was halted or cut off for so long that it counted as dead, or the file was removed. It "
        "stops before it writes: what it did since its last commit is lost, what is committed is whole."
    )


def _refusal(folder: Path, holder: LockHolder | None, me: LockHolder) -> RunDirHeld:
    """The error that keeps `me` out."""
    if holder is None:
        who = "a process that has just started or is just ending"
        # the file goes before the lock does: this may be the end of one's own predecessor
        return PredecessorHolds(held_by(folder, who)) if me.restart else RunDirHeld(held_by(folder, who))
    if holder.precedes(me):
        return PredecessorHolds(held_by(folder, str(holder)))
    return RunDirHeld(held_by(folder, str(holder)))


@contextlib.contextmanager
def _locked(folder: Path, me: LockHolder) -> Iterator[bool]:
    """Hold the operating system's lock; yields False where the file system has none."""
    descriptor = os.open(folder / ".owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    _descriptors.add(descriptor)
    try:
        yield _lock(descriptor, folder, me)
    finally:
        if descriptor in _descriptors:
            _descriptors.discard(descriptor)
            os.close(descriptor)


def _close_in_child() -> None:
    """A lock lasts until all processes that were forked with it have closed it: loader processes close it at
    once, so that the folder is free as soon as its owner has ended."""
    while _descriptors:
        os.close(_descriptors.pop())


os.register_at_fork(after_in_child=_close_in_child)


def _lock(descriptor: int, folder: Path, me: LockHolder) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _refusal(folder, read_holder(holder_file(folder)), me) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _claim(file: Path, me: LockHolder, shares_locks: bool, job_lives: JobLives) -> None:
    """Write `me` into the holder's file, in place of a dead holder only."""
    mine = file.with_name(f"{file.name}.{me.token}")
    try:
        write_holder(mine, me)
        for _ in range(_TRIES):
            with contextlib.suppress(FileExistsError):
                os.link(mine, file)
                return
            holder = read_holder(file)
            if holder is not None and is_alive(holder, file, me, shares_locks, job_lives):
                raise _refusal(file.parent, holder, me)
            if _succeed(file, mine, holder):
                return
    finally:
        mine.unlink(missing_ok=True)
    raise RunDirHeld(held_by(file.parent, f"processes that come and go; see {file}"))


def _succeed(file: Path, mine: Path, dead: LockHolder | None) -> bool:
    """Put `mine` in the place of a dead holder's file; False where something changed meanwhile.

    Of several who found it dead only the one may that makes the mark with the dead holder's token, and it
    looks again once it has the mark: from then on nobody else can change the file.
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
        if read_holder(file) != dead:
            return False
        mine.rename(file)
        return True
    finally:
        mark.unlink(missing_ok=True)


def _changes(file: Path, holder: LockHolder | None) -> bool:
    """Whether the file comes to name another holder, or none, while it is watched."""
    deadline = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        if read_holder(file) != holder:
            return True
        time.sleep(min(1.0, WATCH_SECONDS / 10))
    return False


def is_alive(holder: LockHolder, file: Path, me: LockHolder, shares_locks: bool, job_lives: JobLives) -> bool:
    """Whether the holder named in `file` still works there; asked while holding the lock.

    On this host the lock has the answer. Of another attempt of this process's own job only the file can tell:
    the scheduler would speak of this one.
    """
    if holder.boot == me.boot:
        return not shares_locks and Path(f"/proc/{holder.pid}").exists()
    own = holder.is_same_job(me)
    working = job_lives(holder.job) if holder.job and not own else None
    return _renews(file, WATCH_SECONDS) if working is None else working


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
def _signs_of_life(held: FolderHold, seconds: float | None = None) -> Iterator[None]:
    """Renew inside the block, every `seconds`; None = `RENEW_SECONDS`."""
    pause = RENEW_SECONDS if seconds is None else seconds
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(pause) and held.renew():
            pass

    thread = threading.Thread(target=renew, name="run folder's holder", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
