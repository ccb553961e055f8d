"""What this host has to offer: memory, shared memory, files, threads, its name and a free port."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from swamp_dist.doctor.finding import Subject
from swamp_dist.doctor.network import finding_of
from swamp_dist.environment import read_environment
from swamp_dist.records import Finding, Level
from swamp_dist.rendezvous import RendezvousError, find_meeting_point, listen

_GIB = 2**30
_MEMORY_A_RANK = 1 * _GIB
"""torch, DeepSpeed and a small model take about as much."""
_SHARED = 64 * 2**20
"""What container runtimes give unasked; gloo and loader processes of more than a few ranks need more."""
_FILES, _FEW_FILES = 4096, 1024


def memory(subject: Subject) -> Iterator[Finding]:
    """Free memory against what the ranks of this machine take before they hold data."""
    free = available_memory()
    if free is None:
        yield Finding("memory", "warning", "free memory cannot be told here", "look with your own tools")
        return
    needed = subject.ranks * _MEMORY_A_RANK
    said = f"{free / _GIB:.1f} GiB free for {subject.ranks} ranks"
    if free < needed:
        fix = f"free memory or start fewer ranks (about {_MEMORY_A_RANK / _GIB:.0f} GiB each)"
        yield Finding("memory", "problem" if free < needed / 4 else "warning", said, fix)
    else:
        yield Finding("memory", "ok", said)


def available_memory() -> int | None:
    """Bytes that new processes may take: what the kernel estimates; None where it does not."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def shared_memory(subject: Subject) -> Iterator[Finding]:
    """Room in /dev/shm, where loader processes hand batches over."""
    total, free = shared_bytes()
    workers = subject.job.data.workers if subject.job is not None else 0
    said = f"/dev/shm has {free / 2**20:,.0f} of {total / 2**20:,.0f} MiB free"
    if free < _SHARED:
        fix = "give the container more (--shm-size=1g), empty /dev/shm, or set data.workers=0"
        yield Finding("shared memory", "problem" if workers else "warning", said, fix)
    else:
        yield Finding("shared memory", "ok", said)


def shared_bytes() -> tuple[int, int]:
    """Size and free bytes of /dev/shm; zeros where there is none."""
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return 0, 0
    return usage.total, usage.free


def open_files(_subject: Subject) -> Iterator[Finding]:
    """How many files a process may hold open: shards, sockets to every rank, loader pipes."""
    soft, hard = file_limit()
    if 0 <= soft < _FILES:
        level: Level = "problem" if soft < _FEW_FILES else "warning"
        fix = f"ulimit -n {min(hard, 65536) if hard > 0 else 65536}"
        yield Finding("open files", level, f"a process may open {soft} files, {_FILES} are enough", fix)
    else:
        yield Finding("open files", "ok", f"a process may open {'any number of' if soft < 0 else soft} files")


def file_limit() -> tuple[int, int]:
    """Soft and hard limit; -1 means none."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def threads(subject: Subject) -> Iterator[Finding]:
    """Threads of all ranks against cores: more threads than cores make every rank slower."""
    cores = len(os.sched_getaffinity(0))
    given = os.environ.get("OMP_NUM_THREADS")
    if given is None:
        own = max(1, cores // subject.ranks)
        yield Finding("threads", "ok", f"{cores} cores; `swamp run` gives {subject.ranks} ranks {own} each")
    elif not given.isdecimal() or int(given) < 1:
        yield Finding(
            "threads", "problem", f"OMP_NUM_THREADS={given!r} is no number", "unset OMP_NUM_THREADS"
        )
    elif int(given) * subject.ranks > cores:
        fix = f"export OMP_NUM_THREADS={max(1, cores // subject.ranks)}"
        said = f"OMP_NUM_THREADS={given} on {subject.ranks} ranks, but {cores} cores"
        yield Finding("threads", "warning", said, fix)
    else:
        yield Finding("threads", "ok", f"{given} threads per rank, {subject.ranks} ranks, {cores} cores")


def name(_subject: Subject) -> Iterator[Finding]:
    """Whether this host's name leads to an address: ranks on other hosts look for rank 0 by its name."""
    host = socket.gethostname()
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        said = f"{host} does not resolve ({error}): ranks of several hosts could not meet here"
        yield Finding("host name", "warning", said, f"add `ADDRESS {host}` to /etc/hosts of every host")
    else:
        yield Finding("host name", "ok", f"{host} resolves")


def port(_subject: Subject) -> Iterator[Finding]:
    """Whether the ranks can meet: the port of the environment is free, or any port where none is set."""
    place = read_environment()
    if place.launcher == "torch" or os.environ.get("MASTER_PORT", "").isdecimal():
        number = place.port or int(os.environ["MASTER_PORT"])
    else:
        number = 0
    if place.rank != 0:  # rank 0's host listens
        return
    try:
        listen(find_meeting_point(place).address, number).close()
    except RendezvousError as error:
        yield finding_of("port", error)
    else:
        yield Finding("port", "ok", f"port {number} is free" if number else "a free port is found")
