"""Which process a record names, whether it still lives, and a signal to that very process or to none.

A process number is used again by the system, so a record keeps beside it when the process was born: the
machine's boot and the clock tick of its start, both from /proc. Without them nothing is ever signalled.
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
    fields = _stat(pid)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return f"{boot}:{fields[19]}" if len(fields) > 19 else None


def life(mark: ProcessMark) -> Life:
    """Whether the process of a mark is still there, as far as it can be seen from this host."""
    if mark.host != socket.gethostname():
        return "elsewhere"
    if not mark.born or not Path("/proc/self/stat").exists():
        return "unknown"
    if born(mark.pid) != mark.born:
        return "dead"
    state = _stat(mark.pid)[:1]
    if state in ([], ["Z"], ["X"]):
        return "dead"
    return "suspended" if state == ["T"] else "alive"


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


def marked(variable: str, value: str) -> list[ProcessMark]:
    """Live processes of this host that were started with an environment variable of this value, and their children."""
    found, wanted = [], f"{variable}={value}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or another user's
            continue
        if wanted in variables and (since := born(int(folder.name))) is not None:
            found.append(ProcessMark(socket.gethostname(), int(folder.name), since))
    return [mark for mark in found if life(mark) != "dead"]


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the name, from the state on; [] where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rsplit(")", 1)[-1].split()
