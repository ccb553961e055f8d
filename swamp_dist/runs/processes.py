"""Which process a record names, whether it still lives, and a signal to that very process or to none.

A process number is used again by the system, so a record keeps beside it when the process was born: the
machine's boot and the clock tick of its start. psutil gives the start in seconds with the boot's time
added, which moves when the clock is set, so both are read from /proc. Without them nothing is signalled.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

Life = Literal["alive", "suspended", "dead", "elsewhere", "unknown"]
"""elsewhere: on another host; unknown: the record or this system does not say enough to tell."""


@dataclass(frozen=True)
class ProcessMark:
    """A process of one host, for good: what an event or the owner file says about who wrote it."""

    host: str
    pid: int
    born: str
    """Boot of the machine and clock tick of the start; empty where the system does not tell."""

    def as_dict(self) -> dict[str, object]:
        """The three values as they stand in a JSON line."""
        return asdict(self)


def own_mark() -> ProcessMark:
    """The mark of this process."""
    return ProcessMark(socket.gethostname(), os.getpid(), born(os.getpid()) or "")


def mark_from(record: Mapping[str, object]) -> ProcessMark | None:
    """The mark inside an event or an owner file; None where it has none."""
    host, pid, since = record.get("host"), record.get("pid"), record.get("born", "")
    if isinstance(host, str) and isinstance(pid, int) and isinstance(since, str):
        return ProcessMark(host, pid, since)
    return None


def born(pid: int) -> str | None:
    """Boot and clock tick at which a process of this host started; None where there is no such process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return f"{boot}:{stat.rpartition(')')[2].split()[19]}"  # field 22 of proc(5): the name may hold blanks


def life(mark: ProcessMark) -> Life:
    """Whether the process of a mark is still there, as far as it can be seen from this host."""
    if mark.host != socket.gethostname():
        return "elsewhere"
    if not mark.born or not Path("/proc/self/stat").exists():
        return "unknown"
    if born(mark.pid) != mark.born:
        return "dead"
    try:
        status = psutil.Process(mark.pid).status()
    except psutil.NoSuchProcess:
        return "dead"
    if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
        return "dead"
    return "suspended" if status == psutil.STATUS_STOPPED else "alive"


def send(mark: ProcessMark, number: signal.Signals) -> bool:
    """Signal the process of a mark; False, and nothing is touched, where it is not proven to be there.

    Raises:
        PermissionError: the process belongs to another user.
    """
    if sys.platform != "linux" or life(mark) not in ("alive", "suspended"):
        return False
    try:
        handle = os.pidfd_open(mark.pid)  # from here on the number cannot come to mean another process
    except ProcessLookupError:
        return False
    try:
        if life(mark) not in ("alive", "suspended"):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def find_marked(variable: str, value: str) -> list[ProcessMark]:
    """Live processes of this host that were started with this value of an environment variable.

    Their children are among them where they kept it.
    """
    found = []
    for process in psutil.process_iter():
        try:
            carries = process.environ().get(variable) == value
        except (psutil.Error, OSError):  # ended meanwhile, or another user's
            continue
        if carries and (since := born(process.pid)) is not None:
            found.append(ProcessMark(socket.gethostname(), process.pid, since))
    return [mark for mark in found if life(mark) != "dead"]
