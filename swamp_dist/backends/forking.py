"""A module in a fork of this process, as `python -m` would run it in a new one, without the imports.

Only a process that has imported everything and has one thread is forked: locks that another thread holds stay
locked in a fork for ever. What a process gets from its parent, its environment, folder, streams, signals and
limits, is what a new one would have; what cannot be given to a fork is a reason to start a new one.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import resource
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from swamp_dist.backends.rank_process import PLACE_VARIABLES, die_with_parent, exit_at_once, on_cpu
from swamp_dist.printable import printable

_RAYS_OWN = ("SPT_NOENV", "PYTHONBREAKPOINT")
"""What Ray sets in its workers beside RAY_*; no library reads it as it is imported."""
_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


@dataclass(frozen=True)
class Inherited:
    """What a process has from its parent, beside its environment and its streams."""

    folder: str
    umask: int
    niceness: int
    memory_rank: int
    """`oom_score_adj`: how soon Linux ends it where memory runs out."""
    blocked: tuple[int, ...]
    """Signals that do not reach it."""
    limits: tuple[tuple[int, int], ...]
    cpus: tuple[int, ...]

    @classmethod
    def own(cls) -> Inherited:
        """Of this process."""
        status = Path("/proc/self/status").read_text()  # to ask the system is to change it for a moment
        return cls(
            os.getcwd(),
            int(status.partition("\nUmask:")[2].split()[0], 8),
            os.getpriority(os.PRIO_PROCESS, 0),
            int(Path("/proc/self/oom_score_adj").read_text()),
            tuple(sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))),
            tuple(resource.getrlimit(each) for each in _LIMITS),
            tuple(sorted(os.sched_getaffinity(0))),
        )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Inherited:
        """From what `as_dict` gave, through JSON."""
        pairs = tuple((int(soft), int(hard)) for soft, hard in values["limits"])
        lists = {name: tuple(values[name]) for name in ("blocked", "cpus")}
        return cls(**{**values, **lists, "limits": pairs})

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Start:
    """What is to be run: `python -m MODULE ARGUMENTS`, its environment, and what it has from its parent."""

    module: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    inherited: Inherited


@dataclass(frozen=True)
class Prepared:
    """A process that may be forked: what it was when its libraries were loaded."""

    environment: dict[str, str]
    inherited: Inherited
    added: dict[str, str]
    """Variables that the libraries set as they were imported."""
    open_files: frozenset[int]
    """What the libraries keep open, copies of stderr among them; all else is closed in a fork."""
    sources: dict[str, int]
    """Files of this package that were loaded, with the time of their last change in nanoseconds."""


_prepared: Prepared | None = None
"""Of this process; a fork of it has it too."""


def prepare() -> None:
    """Import what a rank imports and note that this process may be forked from now on.

    Without the libraries' threads it stays one thread: `unfit` says whether it did.
    """
    global _prepared
    environment, inherited, before = dict(os.environ), Inherited.own(), set(_open_files())
    import swamp_dist.stage.rank  # noqa: F401
    from swamp_dist.distributed import alone
    from swamp_dist.train.deepspeed_library import import_deepspeed

    import_deepspeed(alone())
    # numpy's products have threads on many machines. They end before a fork and begin again when they are
    # needed, in the fork too: the first fork, of nothing, ends them here.
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    gc.collect()
    gc.freeze()  # a collection in a fork would write on, and so copy, every page of these objects
    now = {name: value for name, value in os.environ.items() if name not in PLACE_VARIABLES}
    added = {name: value for name, value in now.items() if environment.get(name) != value}
    sources = {file: _changed(file) for file in _files_of_the_package()}
    _prepared = Prepared(environment, inherited, added, frozenset(set(_open_files()) - before), sources)


def is_prepared() -> bool:
    """Whether this process, or the one that it was forked from, was made to be forked."""
    return _prepared is not None


def unfit(start: Start) -> str:
    """Why a start needs a new process; empty where a fork of this one is the same."""
    made = _prepared
    if made is None:
        return "this process has not imported what a rank needs"
    threads = max(threading.active_count(), len(os.listdir("/proc/self/task")))
    if threads != 1:
        return f"the process to be forked has {threads} threads"
    other = _other_variables(start.environment, made)
    if other:
        return f"{', '.join(other[:3])} differ from when the libraries were loaded"
    wanted, have = start.inherited, made.inherited
    if (wanted.folder, wanted.limits, wanted.cpus) != (have.folder, have.limits, have.cpus):
        return "working folder, limits or CPUs differ from those of the process to be forked"
    if wanted.niceness < os.getpriority(os.PRIO_PROCESS, 0) or wanted.memory_rank < have.memory_rank:
        return "its priority is above that of the process to be forked"
    if any(_changed(file) != then for file, then in made.sources.items()):
        return "files of the package were changed since they were loaded"
    return ""


def fork_module(start: Start, out: int, err: int) -> int:
    """Run a module in a fork of this process, in a session of its own; the number of the new process.

    Args:
        start: one that `unfit` says nothing against.
        out, err: open files that become its stdout and stderr; stdin is empty.
    """
    assert _prepared is not None
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _become(start, out, err, _prepared)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Forked:
    """A fork of this process: what `subprocess.Popen` is of a new one, as far as it is needed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs.

        It is looked at and left to this process's own end, or `reap`: until then its number names no other.
        """
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def reap(self) -> None:
        """Let its number go; it must have ended."""
        os.waitpid(self.pid, 0)


def _become(start: Start, out: int, err: int, prepared: Prepared) -> NoReturn:
    """In the fork: be as a new process, run the module, end. Nothing of the parent's frames goes on."""
    code = 1
    try:
        _take_signals()
        os.setsid()
        die_with_parent()
        _take_streams(out, err, prepared.open_files)
        _take_inherited(start.inherited)
        os.environ.clear()
        os.environ.update({**prepared.added, **start.environment})
        _draw_seeds()
        importlib.invalidate_caches()  # of folders that have changed
        sys.argv = [start.module, *start.arguments]
        signal.pthread_sigmask(signal.SIG_SETMASK, start.inherited.blocked)
        runpy.run_module(start.module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException:
        traceback.print_exc()
    finally:
        exit_at_once(code)


def _take_signals() -> None:
    """Forget the parent's handlers; what is ignored stays so, as in a new process."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)


def _take_streams(out: int, err: int, keep: frozenset[int]) -> None:
    nothing, before = os.open(os.devnull, os.O_RDONLY), os.fstat(2)
    out, err = os.dup(out), os.dup(err)  # either may be below 3
    copies = [file for file in keep if os.path.samestat(os.fstat(file), before)]
    for file, stream in ((nothing, 0), (out, 1), (err, 2), *((err, copy) for copy in copies)):
        os.dup2(file, stream, inheritable=stream <= 2)
    for file in set(_open_files()) - keep - {0, 1, 2}:
        with contextlib.suppress(OSError):
            os.close(file)


def _take_inherited(inherited: Inherited) -> None:
    os.umask(inherited.umask)
    os.setpriority(os.PRIO_PROCESS, 0, inherited.niceness)
    Path("/proc/self/oom_score_adj").write_text(str(inherited.memory_rank))


def _draw_seeds() -> None:
    """Random numbers begin anew, as in a new process; Python's own do so by themselves."""
    import numpy as np
    import torch

    np.random.seed()
    torch.default_generator.seed()


def _exit_code(end: SystemExit) -> int:
    """What Python makes of `sys.exit`: a text is an error."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    sys.stderr.write(printable(f"{end.code}\n"))
    return 1


def _open_files() -> list[int]:
    """Numbers of the open files of this process."""
    files = [int(name) for name in os.listdir("/proc/self/fd")]
    return [file for file in files if os.path.exists(f"/proc/self/fd/{file}")]


def _files_of_the_package() -> list[str]:
    """Those of the modules that are loaded."""
    own = [each for name, each in sys.modules.items() if name.partition(".")[0] == "swamp_dist"]
    files = [getattr(each, "__file__", None) for each in own]
    return [file for file in files if file]


def _changed(file: str) -> int:
    """When a file was changed, in nanoseconds; 0 where it is gone."""
    return os.stat(file).st_mtime_ns if os.path.exists(file) else 0


def _other_variables(asked: Mapping[str, str], made: Prepared) -> list[str]:
    """Names of variables that a library may read as it is imported, and that are not the same."""
    wanted, have = made.added | on_cpu(asked), made.added | made.environment
    names = {name for name in {*wanted, *have} if wanted.get(name) != have.get(name)}
    return sorted(n for n in names if not n.startswith("RAY_") and n not in {*_RAYS_OWN, *PLACE_VARIABLES})
